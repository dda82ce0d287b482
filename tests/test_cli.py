"""Commands: exit codes, JSON keys, and errors of one line."""

import io
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from made_archives import clip, make_zip

from xtts_extend import cli
from xtts_extend.errors import CheckpointError


def run(capsys, *argv):
    """Run a command, and return its exit code, stdout and stderr."""
    try:
        code = cli.main([str(part) for part in argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_as_json(capsys, mini_base):
    code, out, _ = run(capsys, "inspect", mini_base, "--json")
    values = json.loads(out)
    assert code == 0
    assert set(values) == {
        "kind", "vocab_size", "step", "epoch", "has_optimizer", "has_scheduler", "written_by", "architecture",
        "size_bytes", "path",
    }  # fmt: skip
    assert (values["kind"], values["vocab_size"]) == ("base", 400)
    assert values["architecture"] == {"layers": 2, "channels": 64, "heads": None}
    assert "kind" in run(capsys, "inspect", mini_base / "model.pth")[1]


def test_errors_are_one_line_with_exit_code_2(capsys, tmp_path):
    code, out, err = run(capsys, "inspect", tmp_path / "ምንም none.pth")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path):
    """The exception is not caught, so Python prints its traceback."""
    with pytest.raises(CheckpointError):
        cli.main(["inspect", str(tmp_path / "none.pth"), "--debug"])


def test_check_base(capsys, mini_base, tmp_path):
    code, out, _ = run(capsys, "check-base", "--base-dir", mini_base, "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    torch.save({}, tmp_path / "dvae.pth")
    code, out, _ = run(capsys, "check-base", "--base-dir", tmp_path)
    assert code == 1
    assert "FAIL  model.pth exists: missing" in out
    code, _, err = run(capsys, "check-base", "--base-dir", tmp_path / "none")
    assert (code, "does not exist" in err) == (2, True)


@pytest.fixture(scope="module")
def amharic(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "am.txt"
    text.write_text("ሰላም ለዓለም።\nእንዴት ነህ፣ ደህና ነኝ።\nሰላም ነው።\n", encoding="utf-8")
    return text


def test_vocabulary_commands(capsys, mini_base, amharic, tmp_path):
    base, vocab = mini_base / "vocab.json", tmp_path / "am" / "vocab.json"
    code, out, _ = run(
        capsys, "extend-vocab", "--base-vocab", base, "--language", "am", "--text", amharic, "--size", 20,
        "--output", vocab, "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert (report["added"], report["vocab_size"]) == (20, 420)
    assert (report["unknown_share"]["before"], report["unknown_share"]["after"]) == (1.0, 0.0)
    assert set(report["tokens_per_word"]) == {"before", "after"}

    english = tmp_path / "en.txt"
    english.write_text("Hello there, how are you?\n", encoding="utf-8")
    code, out, _ = run(capsys, "check-vocab", "--base-vocab", base, "--vocab", vocab, "--text", english, "--json")
    check = json.loads(out)
    assert code == 0
    assert {"changed_ids", "changed_lines", "unknown_share", "dead_entries"} <= set(check)

    content = json.loads(vocab.read_text(encoding="utf-8"))
    ids = content["model"]["vocab"]
    ids["e"], ids["t"] = ids["t"], ids["e"]
    vocab.write_text(json.dumps(content), encoding="utf-8")
    assert run(capsys, "check-vocab", "--base-vocab", base, "--vocab", vocab, "--text", english)[0] == 1


def test_a_language_that_the_base_supports(capsys, mini_base, amharic, tmp_path):
    code, _, err = run(
        capsys, "extend-vocab", "--base-vocab", mini_base / "vocab.json", "--language", "en", "--text", amharic,
        "--size", 20, "--output", tmp_path / "v.json",
    )  # fmt: skip
    assert code == 2
    assert "en" in err


def test_check_data(capsys, mini_base, tmp_path):
    from xtts_extend.data.audio import save_wav

    tone = 0.3 * torch.sin(torch.arange(22050 * 2) * 0.05)
    save_wav(tmp_path / "a.wav", tone.unsqueeze(0), 22050)
    manifest = tmp_path / "train.csv"
    manifest.write_text("audio_file|text|speaker_name\na.wav|hello|x\nb.wav|hello there|x\n", encoding="utf-8")
    flags = ["check-data", "--manifest", manifest, "--language", "en", "--vocab", mini_base / "vocab.json"]
    code, out, _ = run(capsys, *flags, "--json", "--write-clean", tmp_path / "clean.csv")
    report = json.loads(out)
    assert code == 1
    assert (report["total"], report["usable"]) == (2, 1)
    assert (tmp_path / "clean.csv").read_text(encoding="utf-8").splitlines()[1:] == ["a.wav|hello|x"]
    flags[2] = tmp_path / "clean.csv"
    assert run(capsys, *flags)[0] == 0
    flags[2] = tmp_path / "other.csv"
    flags[2].write_text("Satz;Datei\nhello;a.wav\n", encoding="utf-8")
    assert run(capsys, *flags, "--columns", "text=Satz,audio=datei")[0] == 0
    code, _, err = run(capsys, *flags, "--columns", "text=Satz,sound=Datei")
    assert (code, "'sound=Datei' is not a valid ROLE=COLUMN pair" in err) == (2, True)
    (tmp_path / "a.wav").unlink()
    code, _, err = run(capsys, *flags, "--columns", "text=Satz,audio=Datei", "--write-clean", tmp_path / "none.csv")
    assert (code, (tmp_path / "none.csv").exists()) == (1, False)
    assert "No sample is usable, so" in err


def test_check_data_of_an_archive(capsys, caplog, mini_base, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = make_zip(tmp_path / "my set.zip", {"metadata.csv": b"a|hello\nb|hello there\n", "wavs/a.wav": clip()})
    flags = ["check-data", "--manifest", f"{archive}:en", "--vocab", mini_base / "vocab.json", "--json"]
    code, out, _ = run(capsys, *flags)
    report = json.loads(out)
    assert (code, report["total"], report["usable"]) == (1, 2, 1)
    assert report["problem_entries"]["missing"][0]["manifest_audio_file"] == "b"
    assert "Its license is not stated in the data" in caplog.text
    code, _, err = run(capsys, *flags[:2], "hf:fleurs", *flags[3:])
    assert (code, "Expected hf:USER/NAME" in err) == (2, True)


def test_standard_input_that_is_not_utf_8(capsys, mini_base, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"caf\xe9")))
    flags = ["--model", mini_base, "--language", "en", "--reference", "a.wav", "--output", tmp_path / "a.wav"]
    code, _, err = run(capsys, "speak", *flags, "--text", "-")
    assert (code, "Standard input is not UTF-8: byte 3 is 0xe9" in err) == (2, True)


def test_make_mini_base_refuses_a_full_folder(capsys, mini_base):
    code, _, err = run(capsys, "make-mini-base", "--output", mini_base)
    assert (code, "already exists" in err) == (2, True)


def test_help_does_not_load_torch():
    code = "import sys; from xtts_extend.cli import make_parser; make_parser(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_inspection_reads_only_the_header(tmp_path):
    """Inspecting a file with 1 GB of tensors takes less than a second."""
    from xtts_extend import inspect_checkpoint

    path = tmp_path / "checkpoint_1.pth"
    torch.save(
        {"model": {"gpt.text_embedding.weight": torch.zeros(1000, 8), "gpt.gpt.h.0.big": torch.empty(2**28)}}, path
    )
    inspect_checkpoint(path)
    start = time.monotonic()
    info = inspect_checkpoint(path)
    assert time.monotonic() - start < 1
    assert info.size_bytes > 2**30


def test_a_closed_output_pipe_is_not_an_error(mini_base):
    command = [sys.executable, "-m", "xtts_extend.cli", "inspect", str(mini_base)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 0


def test_an_interrupt_prints_one_word(monkeypatch, capsys, mini_base):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("xtts_extend.checkpoint.inspect.inspect_checkpoint", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(mini_base)])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
