"""The report page: complete, self-contained, and with all texts escaped."""

import base64
import json
import shutil
from html.parser import HTMLParser

import pytest
from runs import only_run, write_metrics

from xtts_extend.cli import main
from xtts_extend.errors import ConfigError
from xtts_extend.run.history import read_history
from xtts_extend.run.metrics import read_metrics
from xtts_extend.run.report import _first_and_last_samples, write_report

SENTENCE = "<script>alert('ሰላም')</script> & house"


class Page(HTMLParser):
    """A parsed page: its tags with attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(corpus, recipe, tmp_path_factory):
    """A run that was stopped and resumed, and spoke a test sentence at every evaluation."""
    output = tmp_path_factory.mktemp("ሪፖርት & report")
    voice = corpus.english.parent / "wavs" / "en_00000.wav"
    # Few evaluations, because an untrained model speaks up to the maximum length, which is slow.
    flags = corpus.flags(output_dir=output, eval_step=3, max_steps=3)
    flags += [f"--val-manifest={corpus.english}:en", f"--test-sentence=en:{voice}:{SENTENCE}"]
    recipe(flags)
    run = only_run(output)
    recipe([f"--checkpoint={run}", "--max-steps=6"])
    return run


@pytest.fixture(scope="module")
def page(run):
    report = write_report(run)
    assert report["output"] == str(run / "report.html")
    assert (report["steps"], report["evaluations"], report["samples"]) == (6, 6, 3)
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_page_is_self_contained(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe", "img"), tag
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, name)
    assert {tag for tag, _ in page.tags} >= {"svg", "audio", "table", "h2"}


def not_finite(line):
    """Return the line of an evaluation with all values null."""
    return line | {name: None for name in line if name.startswith("loss") or name == "retention"}


def test_evaluation_that_is_not_finite(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    steps, evaluations = read_metrics(run)
    earlier, last = ([line for line in evaluations if (line["step"] == 6) is is_last] for is_last in (False, True))
    write_metrics(tmp_path / "run", [*steps, *earlier, *map(not_finite, last)])
    write_report(tmp_path / "run")
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    (english,) = [line for line in read_metrics(run)[1] if line["language"] == "en" and line["step"] == 3]
    assert f"–{english['loss_mel_ce']:.4f}3–" in "".join(page.text.split())


def test_page_shows_the_content_of_the_run(run, page):
    lines = [line for line in read_metrics(run)[1] if line["language"] == "en"]
    assert f"{lines[0]['loss_mel_ce']:.4f}" in page.text
    assert f"{lines[-1]['retention']:.4f}" in page.text
    cells = "".join(page.text.split())
    assert "basetokens400newtokens" in cells
    assert " tensors, optimizer (" in page.text
    assert SENTENCE in page.text
    assert "checkpoint_6.pth" in page.text
    assert [event["event"] for event in read_history(run)] == ["start", "end", "resume", "end"]
    assert [event["step"] for event in read_history(run)] == [0, 3, 3, 6]


def test_retention_of_merged_weights_is_labeled(run, page, tmp_path):
    labels = ("retention, merged weights", "en, merged weights", "In the model folder, the new language is in a pack")
    assert all(text in page.text for text in labels)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    steps, evaluations = read_metrics(run)
    merged = [{name: value for name, value in line.items() if name != "retention_in_folder"} for line in evaluations]
    write_metrics(tmp_path / "run", [*steps, *merged])
    write_report(tmp_path / "run")
    other = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert not any(text in other for text in labels)
    assert "Retention is the base's mel loss divided by the model's" in other


def test_speech_is_on_the_page(run, page):
    sounds = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    files = sorted((run / "samples").iterdir())
    assert [file.name for file in files] == [f"{step:08d}-0-en.wav" for step in (0, 3, 6)]
    assert [base64.b64decode(sound.split(",")[1]) for sound in sounds] == [file.read_bytes() for file in files]


def test_first_and_last_evaluations_have_audio(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in range(0, 90, 10):
        for number, language in enumerate(("am", "en")):
            (tmp_path / "samples" / f"{step:08d}-{number}-{language}.wav").touch()
    chosen = _first_and_last_samples(tmp_path)
    assert [file.name for file in chosen[:2]] == ["00000000-0-am.wav", "00000000-1-en.wav"]
    assert sorted({int(file.name[:8]) for file in chosen}) == [0, 60, 70, 80]


def test_run_without_evaluations_and_speech(short_run, tmp_path):
    report = write_report(short_run, tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert (report["evaluations"], report["samples"]) == (0, 0)
    assert "Nothing was evaluated" in text
    assert "No old language was evaluated" in text
    assert "The run has no test sentences" in text


def test_deprecated_settings(short_run, tmp_path):
    def settings(run):
        write_report(run, tmp_path / "page.html")
        return "".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).text.split())

    assert not [name for name in ("l2_sp", "layer_decay", "new_row_learning_rate") if name in settings(short_run)]
    run = shutil.copytree(short_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps({**config, "l2_sp": 2.5, "new_row_learning_rate": 3e-3}))
    assert "l2_sp2.5000new_row_learning_rate0.0030" in settings(run)
    assert "layer_decay" not in settings(run)


def test_incomplete_history(short_run, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"event": "start", "step": 0}\n[1]\n{"event": "res', encoding="utf-8")
    assert read_history(tmp_path) == [{"event": "start", "step": 0}]
    assert read_history(tmp_path / "none") == []


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="not an xtts_extend run folder"):
        write_report(tmp_path)


def test_output_cannot_be_a_folder(short_run, tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(short_run, tmp_path)


def test_report_command(short_run, tmp_path, capsys):
    assert main(["report", str(short_run), "--output", str(tmp_path / "p.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4
