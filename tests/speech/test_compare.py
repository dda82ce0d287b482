"""`compare`: the same text from a base, a folder, a run and a pack, and which samples are the base's."""

import hashlib
import json
import os
import shutil
import weakref

import pytest
import soundfile
import torch
from checkpoints import edited, put

from xtts_extend.cli import main
from xtts_extend.errors import CheckpointError, ConfigError, DataError, LanguageError
from xtts_extend.model.voice import make_voice
from xtts_extend.speech import compare as compared
from xtts_extend.speech.compare import compare, say
from xtts_extend.speech.export import export

TEXT = "hola 12"


@pytest.fixture(scope="module")
def pack(two_steps, tmp_path_factory):
    file = tmp_path_factory.mktemp("ጥቅል packs") / "am.safetensors"
    export(two_steps, file)
    return file


@pytest.fixture(scope="module")
def folder(two_steps, tmp_path_factory):
    output = tmp_path_factory.mktemp("ሞዴል out") / "am model"
    export(two_steps, output)
    return output


@pytest.fixture
def call(corpus, tmp_path):
    def compared(sources, languages=("en",), text=TEXT, **more):
        return compare(corpus.base, sources, languages, [corpus.voice], text, tmp_path / "ማወዳደር out", **more)

    return compared


def results(done, language):
    return [source["languages"][language] for source in done["sources"]]


def test_all_kinds_side_by_side(call, corpus, two_steps, folder, pack, tmp_path):
    heard = []
    sources = [corpus.base, folder, two_steps, two_steps / "checkpoint_2.pth", pack]
    done = call(sources, ("am", "en", "am"), seed=3, show=lambda number, code, result: heard.append((number, code)))
    assert [source["kind"] for source in done["sources"]] == ["base", "model folder", "run", "run", "pack"]
    assert [source["path"] for source in done["sources"]] == [*map(str, sources)]
    assert [source["reason"] for source in done["sources"]] == [None] * 5
    last = str(two_steps / "checkpoint_2.pth")
    assert [source["checkpoint"] for source in done["sources"]] == [None, None, last, last, None]
    # The base comes first, and what is spoken beside it. The folder needs a model of its own.
    assert [number for number, code in heard if code == "en"] == [1, 3, 4, 5, 2]

    english, amharic = results(done, "en"), results(done, "am")
    assert [result["equals_base"] for result in english] == [True] * 5
    assert len({result["sha256"] for result in english}) == 1
    assert "has no tag [am]" in amharic[0]["error"]
    assert [result["equals_base"] for result in amharic[1:]] == [None] * 4
    assert len({result["sha256"] for result in amharic[1:]}) == 1, "a folder, its run and its pack are one model"
    assert amharic[1]["sha256"] != english[1]["sha256"]

    output = tmp_path / "ማወዳደር out"
    assert json.loads((output / "compared.json").read_text(encoding="utf-8")) == done
    assert (done["text"], done["seed"], done["base_dir"]) == (TEXT, 3, str(corpus.base))
    wavs = {f"{number}-{code}.wav" for number in range(1, 6) for code in ("am", "en")} - {"1-am.wav"}
    assert {file.name for file in output.iterdir()} == {"compared.json", *wavs}
    for result in english + amharic[1:]:
        assert soundfile.info(output / result["file"]).duration == pytest.approx(result["seconds"], abs=1e-3)


def test_the_digest_and_the_seed_are_those_of_the_samples(call, corpus):
    model = compared.load_base(corpus.base)
    voice = compared.load_voice(model, [corpus.voice])
    (result,) = results(call([corpus.base], seed=7), "en")
    samples = {seed: say(model, TEXT, "en", voice, seed) for seed in (7, 8)}
    assert result["sha256"] == hashlib.sha256(samples[7].numpy().tobytes()).hexdigest()
    assert not torch.equal(samples[7], samples[8])


def test_packs_in_the_base_folder_speak_only_for_the_folder(folder, pack, corpus, tmp_path):
    done = compare(folder, [folder, corpus.base], ["am"], [corpus.voice], TEXT, tmp_path / "out")
    own, base = results(done, "am")
    assert own["equals_base"] is None
    assert "has no tag [am]" in base["error"]


@pytest.mark.slow
def test_a_run_that_cannot_be_a_pack_is_merged(call, stock_file, corpus):
    done = call([stock_file], ("am", "en"))
    (source,) = done["sources"]
    assert "stock Trainer" in source["reason"]
    assert source["languages"]["en"]["equals_base"] is False
    assert source["languages"]["am"]["equals_base"] is None


@pytest.mark.slow
def test_a_run_of_another_base_is_merged(two_steps, corpus, tmp_path):
    base = tmp_path / "ሌላ base"
    shutil.copytree(corpus.base, base)
    edited(corpus.base / "model.pth", base, put(0, "model", "gpt.text_embedding.weight", ...))
    done = compare(base, [two_steps, corpus.base], ["en"], [corpus.voice], TEXT, tmp_path / "out")
    assert "Pass the run's base" in done["sources"][0]["reason"]
    assert [result["equals_base"] for result in results(done, "en")] == [False, False]


def test_a_source_that_fails_is_named_and_the_others_go_on(call, pack, two_steps, corpus, tmp_path):
    damaged = tmp_path / "ጉዳት.safetensors"
    content = bytearray(pack.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    cut = tmp_path / "checkpoint_2.pth"
    cut.write_bytes((two_steps / "checkpoint_2.pth").read_bytes()[:100_000])
    empty = tmp_path / "empty.pth"
    empty.touch()
    diverged = edited(
        two_steps / "checkpoint_2.pth", tmp_path / "run", put(float("nan"), "model", "xtts.gpt.final_norm.weight", ...)
    )
    shutil.copy(two_steps / "vocab.json", diverged.parent)
    sources = [damaged, cut, empty, diverged, corpus.base / "model.pth", corpus.base]
    *broken, base = results(call(sources, ("am", "en")), "am")
    expected = ("checksum mismatch", "truncated", "empty", "NaN or infinite", "is a base model", "no tag")
    for result, text in zip([*broken, base], expected, strict=True):
        assert text in result["error"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": " \n"}, DataError, "The text is empty"),
        ({"languages": ["../en"]}, LanguageError, "malformed"),
        ({"languages": []}, ConfigError, "nothing to compare"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"seed": 1 << 70}, ConfigError, "--seed"),
        ({"sources": ["ምንም"]}, CheckpointError, "does not exist"),
        ({"sources": ["."]}, CheckpointError, "neither a run nor a model folder"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(call, tmp_path, monkeypatch, corpus, change, error, message):
    monkeypatch.setattr(compared, "load_base", None)
    given = {"sources": [corpus.base], **change}
    given["sources"] = [tmp_path / source for source in given["sources"]]
    with pytest.raises(error, match=message):
        call(**given)
    assert not any(tmp_path.iterdir())


def test_an_output_that_exists_is_refused(call, corpus, tmp_path):
    (tmp_path / "ማወዳደር out").mkdir()
    (tmp_path / "ማወዳደር out" / "file").touch()
    with pytest.raises(ConfigError, match="already exists"):
        call([corpus.base])


def test_a_voice_that_cannot_be_read_leaves_nothing(corpus, tmp_path):
    with pytest.raises(DataError, match="ምንም"):
        compare(corpus.base, [corpus.base], ["en"], [tmp_path / "ምንም.wav"], TEXT, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_one_model_is_in_memory_at_a_time(call, corpus, folder, monkeypatch):
    alive = []

    def counted(model, audios, names=()):
        alive.append(weakref.ref(model))
        assert sum(reference() is not None for reference in alive) == 1
        return make_voice(model, audios, names)

    monkeypatch.setattr("xtts_extend.speech.speaking.make_voice", counted)
    call([folder, corpus.base, folder])
    assert len(alive) == 3


def test_the_command(corpus, pack, tmp_path, capsys):
    text = tmp_path / "ጽሑፍ text.txt"
    text.write_text(TEXT, encoding="utf-8-sig")
    flags = [f"--base-dir={corpus.base}", f"--reference={corpus.voice}", f"--output={tmp_path / 'out'}"]
    code = main(["compare", *flags, f"--source={pack}", "--language=en", f"--text-file={text}", "--json"])
    done = json.loads(capsys.readouterr().out)
    assert (code, done["text"], results(done, "en")[0]["equals_base"]) == (0, TEXT, True)
    shutil.rmtree(tmp_path / "out")
    given = [f"--source={corpus.base}", "--language=am", "--language=en", f"--text={TEXT}"]
    assert main(["compare", *flags, *given]) == 1
    out, err = capsys.readouterr()
    assert f"1  base  {corpus.base}" in out
    assert "1-en.wav" in out
    assert "identical to the base" in out
    assert "1  am  The vocabulary has no tag [am]" in err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_source_that_cannot_be_read(call, tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        call([tmp_path / "locked"])
