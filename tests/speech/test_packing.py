"""A run becomes a pack that computes what the run computed, in a folder that is the base for all else."""

import json
import logging
import os
import shutil

import pytest
import torch
from checkpoints import edited, put, without
from networks import base_weights
from runs import STEPS, checkpoint, only_run

from xtts_extend.cli import main
from xtts_extend.data.encoded import file_digest
from xtts_extend.errors import PackError
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.pack.file import Pack
from xtts_extend.pack.model_folder import ModelFolder
from xtts_extend.pack.route import routed
from xtts_extend.run.metrics import read_metrics
from xtts_extend.speech.evaluate import evaluate
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import load_model
from xtts_extend.text.cleaning import Cleaning, Step
from xtts_extend.text.languages import Language, get_language, register_language


@pytest.fixture(scope="module")
def run(uninterrupted):
    return uninterrupted


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("ሞዴል out") / "am model"
    export(run, output, licence="CC-BY 4.0")
    return output


def test_the_folder_is_the_base_and_a_pack(run, folder, corpus):
    base = {file.name: file_digest(file) for file in corpus.base.iterdir()}
    found = {str(file.relative_to(folder)): file_digest(file) for file in folder.rglob("*") if file.is_file()}
    assert found.keys() - base.keys() == {"README.md", "packs/am.safetensors", "packs/compared.json"}
    assert found.items() >= base.items()
    assert all(not file.samefile(corpus.base / file.name) for file in folder.iterdir() if file.name in base)
    info = Pack.open(folder / "packs" / "am.safetensors").info
    assert (info.language, info.training.steps, info.licence, info.rank) == ("am", STEPS, "CC-BY 4.0", None)
    assert info.training.utterances == {"am": 12}
    assert len(info.texts) == 12
    lines = {line["step"]: line["loss_mel_ce"] for line in read_metrics(run)[1] if line["language"] == "am"}
    assert info.training.losses == {"base": lines[0], "trained": lines[max(lines)]}


def test_it_computes_what_the_run_computed(run, folder, corpus):
    pack = Pack.open(folder / "packs" / "am.safetensors")
    trained = xtts_weights(checkpoint(run, STEPS)["model"])
    given = pack.weights(base_weights(corpus.base))
    assert given.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(given[name], tensor), name
    model = load_model(folder)
    name = "gpt.gpt.h.0.attn.c_attn.weight"
    assert torch.equal(model.state_dict()[name], base_weights(corpus.base)[name])
    with routed(model, "am"):
        assert torch.equal(model.state_dict()[name], trained[name])


@pytest.mark.parametrize("language", ["am", "en"])
def test_its_losses_are_those_of_the_run_and_of_the_base(run, folder, corpus, language):
    lines = {line["step"]: line for line in read_metrics(run)[1] if line["language"] == language}
    manifest = {"am": corpus.val, "en": corpus.english}[language]
    found = evaluate(folder, [f"{manifest}:{language}"], language, count=0, progress=False)
    base = (
        evaluate(corpus.base, [f"{manifest}:{language}"], language, count=0, progress=False) if language == "en" else {}
    )
    if language == "am":
        assert found["loss_mel_ce"] == pytest.approx(lines[max(lines)]["loss_mel_ce"], rel=1e-5)
    else:
        assert found == base


def test_the_readme_loads_it(folder, monkeypatch):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Recordings: CC-BY 4.0." in text
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    model = names["model"]
    assert "am" in model.config.languages
    assert "am" in model.language_manager.language_names
    assert 1 not in model.tokenizer.encode("ሰላም ለዓለም", "am")


def test_a_base_that_stock_would_write_again_is_saved_plainly(run, corpus, tmp_path):
    """A published file holds a configuration as an object, and stock's load_checkpoint writes such a file again."""
    from TTS.tts.configs.xtts_config import XttsConfig

    base = shutil.copytree(corpus.base, tmp_path / "base")
    content = torch.load(base / "model.pth", weights_only=True)
    torch.save({**content, "config": XttsConfig()}, base / "model.pth")
    export(run, tmp_path / "model", base)
    copied = torch.load(tmp_path / "model" / "model.pth", weights_only=True)
    assert list(copied) == ["model"]
    assert copied["model"].keys() == content["model"].keys()
    assert all(torch.equal(copied["model"][name], tensor) for name, tensor in content["model"].items())


@pytest.mark.slow
def test_a_pack_alone_in_a_smaller_form(run, corpus, tmp_path, capsys):
    sizes = {}
    for flags in ((), ("--rank", "4"), ("--rank", "4", "--dtype", "bfloat16")):
        output = tmp_path / f"{len(sizes)}.safetensors"
        assert main(["export", "--checkpoint", str(run), "--output", str(output), "--json", *flags]) == 0
        done = json.loads(capsys.readouterr().out)
        assert done["form"] == "pack"
        assert done["pack_bytes"] == output.stat().st_size
        sizes[flags] = done["pack_bytes"]
        ModelFolder(corpus.base).compare(Pack.open(output))
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--keep-adapter"], "--keep-adapter was removed. Omit it", id="keep-adapter"),
        pytest.param(["--adapter-rank", "8"], "--adapter-rank was removed. Give --rank N", id="adapter-rank"),
        pytest.param(["--rank", "0"], "--rank 0: expected 1 or more", id="rank"),
        pytest.param(["--dtype", "int8"], "--dtype int8: expected one of float32", id="dtype"),
        pytest.param(["--merged", "--licence", "CC0"], "--licence is written into a", id="merged licence"),
        pytest.param(["--merged", "--rank", "2"], "--merged writes a folder with whole weights", id="merged rank"),
    ],
)
def test_flags_that_are_refused(run, tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "out"), *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


NEW_HEAD = ("model", "xtts.gpt.text_head.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param([without("xtts_extend")], "was written by the stock Trainer", id="stock"),
        pytest.param(
            [put(9.0, "model", "xtts.gpt.conditioning_perceiver.norm.gamma", ...)], "changed the voice side", id="voice"
        ),
        pytest.param(
            [put(9.0, *NEW_HEAD, 3), put(False, "xtts_extend", "base_rows", "frozen")], "changed rows of old", id="rows"
        ),
        pytest.param(
            [put({"am": 1.0, "ti": 1.0}, "xtts_extend", "trained_on", "hours")], "trained 2 new languages", id="two"
        ),
        pytest.param([put("en", "config", "language")], "which its base speaks already", id="known language"),
    ],
)
def test_what_cannot_be_a_pack(run, tmp_path, change, message):
    broken = edited(run / f"checkpoint_{STEPS}.pth", tmp_path / "run", *change)
    with pytest.raises(PackError, match=message) as caught:
        export(broken, tmp_path / "out")
    assert "--merged" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_export_of_an_earlier_release(folder, tmp_path):
    """With --keep-adapter: its language would be spoken by the base."""
    old = shutil.copytree(folder, tmp_path / "old")
    (old / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(PackError, match="Export its run again"):
        load_model(old)


def test_a_run_that_started_from_another_run(run, tmp_path):
    start = str(run / "checkpoint_4.pth")
    broken = edited(run / f"checkpoint_{STEPS}.pth", tmp_path / "run", put(start, "config", "started_from"))
    with pytest.raises(PackError, match="started from the weights of another run.* --merged"):
        export(broken, tmp_path / "am.safetensors")
    assert not (tmp_path / "am.safetensors").exists()


@pytest.fixture
def amharic():
    """The registry's Amharic, which is put back."""
    known = get_language("am")
    yield known
    register_language(known)


def test_a_cleaner_in_python_cannot_travel(run, amharic, tmp_path):
    register_language(Language("am", lambda text: text.lower()))
    with pytest.raises(PackError, match="is Python code .* --merged"):
        export(run, tmp_path / "out")
    # another cleaning than that of the run
    register_language(Language("am", Cleaning((Step("replacements", 1, {"texts": {"ሰ": "ለ"}, "whole_words": False}),))))
    with pytest.raises(PackError, match="are tokenized differently here"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_in_a_language_of_the_base_is_merged(corpus, recipe, tmp_path):
    flags = corpus.flags(
        vocab=None,
        language="en",
        train_manifest=f"{corpus.english}:en",
        val_manifest=None,
        output_dir=tmp_path / "r",
        max_steps=1,
    )
    recipe(flags)
    with pytest.raises(PackError, match="which its base speaks already"):
        export(only_run(tmp_path / "r"), tmp_path / "out")
    assert export(only_run(tmp_path / "r"), tmp_path / "out", merged=True)["form"] == "merged"


def test_one_language_begins_where_another_ended(folder, corpus, recipe, tmp_path, caplog):
    """Tigrinya from the base with Amharic's pack: its rows train on, the rest refers to the base."""
    text = tmp_path / "ti.txt"
    text.write_text("ሰላም ዓለም\nከመይ ኣለኻ", encoding="utf-8")
    vocab = tmp_path / "vocab.json"
    assert (
        main(
            [
                "extend-vocab",
                "--base-vocab",
                f"{folder}:am",
                "--language",
                "ti",
                "--text",
                str(text),
                "--size",
                "12",
                "--output",
                str(vocab),
            ]
        )
        == 0
    )
    manifest = tmp_path / "ti.csv"
    manifest.write_text(corpus.train.read_text(encoding="utf-8"), encoding="utf-8")
    os.symlink(corpus.train.parent / "wavs", tmp_path / "wavs")
    given = {"base_dir": None, "vocab": vocab, "language": "ti", "train_manifest": f"{manifest}:ti", "max_steps": 2}
    flags = corpus.flags(
        output_dir=tmp_path / "runs", val_manifest=f"{corpus.english}:en", start_from=f"{folder}:am", **given
    )
    with caplog.at_level(logging.INFO):
        recipe(flags)
    assert "Starting from the language pack" in caplog.text
    run = only_run(tmp_path / "runs")
    base = base_weights(corpus.base)
    rows = len(base["gpt.text_embedding.weight"])
    trained = checkpoint(run, 2)
    assert trained["xtts_extend"]["base_rows"]["rows"] == rows
    known = Pack.open(folder / "packs" / "am.safetensors").weights(base)["gpt.text_embedding.weight"]
    now = trained["model"]["xtts.gpt.text_embedding.weight"]
    assert torch.equal(now[:rows], base["gpt.text_embedding.weight"])
    # a step from where they were, and not where the base would start them
    moved = (now[rows : len(known)] - known[rows:]).abs().max()
    assert 0 < float(moved) < 0.1
    # retention is of the base, not of what the run started with
    measured = evaluate(corpus.base, [f"{corpus.english}:en"], "en", count=0, progress=False)["loss_mel_ce"]
    assert trained["xtts_extend"]["state"]["base_losses"]["en"] == pytest.approx(measured, rel=1e-5)
    export(run, tmp_path / "ti.safetensors")
    assert Pack.open(tmp_path / "ti.safetensors").info.training.began_with == "am"
    ModelFolder(shutil.copytree(folder, tmp_path / "both")).add(tmp_path / "ti.safetensors")
    model = load_model(tmp_path / "both")
    assert {"am", "ti"} <= set(model.config.languages)
    assert 1 not in model.tokenizer.encode("ሰላም ዓለም", "ti")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"start_from": "{folder}:sw"}, "has no pack for sw", id="language"),
        pytest.param({"start_from": "{folder}"}, "Expected FOLDER:LANG", id="no language"),
        pytest.param(
            {"start_from": "{folder}:am", "checkpoint": "{folder}/model.pth"}, "Omit one of the two", id="both"
        ),
        pytest.param({"start_from": "{folder}:am", "adapter": "lora"}, "Omit --adapter", id="adapter"),
    ],
)
def test_what_a_run_cannot_start_from(folder, corpus, fails, tmp_path, given, message):
    flags = {key: value.format(folder=folder) for key, value in given.items()}
    code, said = fails(corpus.flags(output_dir=tmp_path / "runs", base_dir=None, max_steps=1, **flags))
    assert code == 2
    assert message in said
