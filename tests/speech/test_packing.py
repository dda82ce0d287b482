"""Exported packs compute what the run computed, and their folder is the base for all other languages."""

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
from xtts_extend.errors import PackError
from xtts_extend.files import file_digest
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


def test_the_folder_has_the_base_and_a_pack(run, folder, corpus):
    base = {file.name: file_digest(file) for file in corpus.base.iterdir()}
    exported = {str(file.relative_to(folder)): file_digest(file) for file in folder.rglob("*") if file.is_file()}
    assert exported.keys() - base.keys() == {"README.md", "packs/am.safetensors", "packs/compared.json"}
    assert exported.items() >= base.items()
    assert all(not file.samefile(corpus.base / file.name) for file in folder.iterdir() if file.name in base)
    info = Pack.open(folder / "packs" / "am.safetensors").info
    assert (info.language, info.training.steps, info.licence, info.rank) == ("am", STEPS, "CC-BY 4.0", None)
    assert info.training.utterances == {"am": 12}
    assert len(info.texts) == 12
    lines = {line["step"]: line["loss_mel_ce"] for line in read_metrics(run)[1] if line["language"] == "am"}
    assert info.training.losses == {"base": lines[0], "trained": lines[max(lines)]}


def test_a_pack_computes_what_the_run_computed(run, folder, corpus):
    pack = Pack.open(folder / "packs" / "am.safetensors")
    trained = xtts_weights(checkpoint(run, STEPS)["model"])
    packed = pack.weights(base_weights(corpus.base))
    assert packed.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(packed[name], tensor), name
    model = load_model(folder)
    name = "gpt.gpt.h.0.attn.c_attn.weight"
    assert torch.equal(model.state_dict()[name], base_weights(corpus.base)[name])
    with routed(model, "am"):
        assert torch.equal(model.state_dict()[name], trained[name])


@pytest.mark.parametrize("language", ["am", "en"])
def test_losses_equal_the_runs_and_the_bases(run, folder, corpus, language):
    lines = {line["step"]: line for line in read_metrics(run)[1] if line["language"] == language}
    manifest = {"am": corpus.val, "en": corpus.english}[language]
    result = evaluate(folder, [f"{manifest}:{language}"], language, count=0, progress=False)
    base = (
        evaluate(corpus.base, [f"{manifest}:{language}"], language, count=0, progress=False) if language == "en" else {}
    )
    if language == "am":
        assert result["loss_mel_ce"] == pytest.approx(lines[max(lines)]["loss_mel_ce"], rel=1e-5)
    else:
        assert result == base


def test_the_readmes_code_loads_the_model(folder, monkeypatch):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "License of the recordings:\nCC-BY 4.0." in text
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    model = names["model"]
    assert "am" in model.config.languages
    assert "am" in model.language_manager.language_names
    assert 1 not in model.tokenizer.encode("ሰላም ለዓለም", "am")


def test_a_base_that_stock_would_rewrite_is_saved_without_its_config(run, corpus, tmp_path):
    """Published files contain a configuration object, and stock's load_checkpoint rewrites such files."""
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
def test_lower_rank_and_precision_give_smaller_packs(run, corpus, tmp_path, capsys):
    sizes = {}
    for flags in ((), ("--rank", "4"), ("--rank", "4", "--dtype", "bfloat16")):
        output = tmp_path / f"{len(sizes)}.safetensors"
        assert main(["export", "--checkpoint", str(run), "--output", str(output), "--json", *flags]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["form"] == "pack"
        assert result["pack_bytes"] == output.stat().st_size
        sizes[flags] = result["pack_bytes"]
        ModelFolder(corpus.base).compare(Pack.open(output))
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--keep-adapter"], "--keep-adapter was removed. Omit it", id="keep-adapter"),
        pytest.param(["--adapter-rank", "8"], "--adapter-rank was removed. Use --rank N", id="adapter-rank"),
        pytest.param(["--rank", "0"], "--rank 0: expected 1 or more", id="rank"),
        pytest.param(["--dtype", "int8"], "--dtype int8: expected one of float32", id="dtype"),
        pytest.param(["--merged", "--licence", "CC0"], "--licence applies only to", id="merged licence"),
        pytest.param(["--merged", "--rank", "2"], "--merged writes a folder with complete weights", id="merged rank"),
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
            [put({"am": 1.0, "ti": 1.0}, "xtts_extend", "trained_on", "hours")],
            "was trained on 2 new languages",
            id="two",
        ),
        pytest.param([put("en", "config", "language")], "which its base already supports", id="known language"),
    ],
)
def test_runs_that_cannot_be_a_pack(run, tmp_path, change, message):
    broken = edited(run / f"checkpoint_{STEPS}.pth", tmp_path / "run", *change)
    with pytest.raises(PackError, match=message) as caught:
        export(broken, tmp_path / "out")
    assert "--merged" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_export_of_an_earlier_release(folder, tmp_path):
    """The base would speak the language of an export with --keep-adapter, so it is refused."""
    old = shutil.copytree(folder, tmp_path / "old")
    (old / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(PackError, match="Export the run again"):
        load_model(old)


def test_a_run_that_started_from_another_run(run, tmp_path):
    start = str(run / "checkpoint_4.pth")
    broken = edited(run / f"checkpoint_{STEPS}.pth", tmp_path / "run", put(start, "config", "started_from"))
    with pytest.raises(
        PackError, match=r"started from .*checkpoint_4\.pth, which is another run's checkpoint.* --merged"
    ):
        export(broken, tmp_path / "am.safetensors")
    assert not (tmp_path / "am.safetensors").exists()


@pytest.fixture
def amharic():
    """The registered Amharic, which is restored afterwards."""
    registered = get_language("am")
    yield registered
    register_language(registered)


def test_a_cleaner_in_python_cannot_be_packed(run, amharic, tmp_path):
    register_language(Language("am", lambda text: text.lower()))
    with pytest.raises(PackError, match="is Python code .* --merged"):
        export(run, tmp_path / "out")
    # A cleaning that differs from the run's.
    register_language(Language("am", Cleaning((Step("replacements", 1, {"texts": {"ሰ": "ለ"}, "whole_words": False}),))))
    with pytest.raises(PackError, match="are tokenized differently now"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_in_a_language_of_the_base_can_only_be_merged(corpus, recipe, tmp_path):
    flags = corpus.flags(
        vocab=None,
        language="en",
        train_manifest=f"{corpus.english}:en",
        val_manifest=None,
        output_dir=tmp_path / "r",
        max_steps=1,
    )
    recipe(flags)
    with pytest.raises(PackError, match="which its base already supports"):
        export(only_run(tmp_path / "r"), tmp_path / "out")
    assert export(only_run(tmp_path / "r"), tmp_path / "out", merged=True)["form"] == "merged"


@pytest.mark.slow
def test_a_run_starts_from_another_languages_pack(folder, corpus, recipe, tmp_path, caplog):
    """Tigrinya starts from Amharic's pack. The pack's rows are trained further, everything else refers to the base."""
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
    changed = {"base_dir": None, "vocab": vocab, "language": "ti", "train_manifest": f"{manifest}:ti", "max_steps": 2}
    flags = corpus.flags(
        output_dir=tmp_path / "runs", val_manifest=f"{corpus.english}:en", start_from=f"{folder}:am", **changed
    )
    with caplog.at_level(logging.INFO):
        recipe(flags)
    assert "Starting from the language pack" in caplog.text
    run = only_run(tmp_path / "runs")
    base = base_weights(corpus.base)
    rows = len(base["gpt.text_embedding.weight"])
    trained = checkpoint(run, 2)
    assert trained["xtts_extend"]["base_rows"]["rows"] == rows
    start = Pack.open(folder / "packs" / "am.safetensors").weights(base)["gpt.text_embedding.weight"]
    embedding = trained["model"]["xtts.gpt.text_embedding.weight"]
    assert torch.equal(embedding[:rows], base["gpt.text_embedding.weight"])
    # The pack's rows moved a little, so they were not initialized from the base.
    moved = (embedding[rows : len(start)] - start[rows:]).abs().max()
    assert 0 < float(moved) < 0.1
    # Retention is measured against the base, not the pack that the run started from.
    measured = evaluate(corpus.base, [f"{corpus.english}:en"], "en", count=0, progress=False)["loss_mel_ce"]
    assert trained["xtts_extend"]["state"]["base_losses"]["en"] == pytest.approx(measured, rel=1e-5)
    export(run, tmp_path / "ti.safetensors")
    assert Pack.open(tmp_path / "ti.safetensors").info.training.began_with == "am"
    ModelFolder(shutil.copytree(folder, tmp_path / "both")).add(tmp_path / "ti.safetensors")
    model = load_model(tmp_path / "both")
    assert {"am", "ti"} <= set(model.config.languages)
    assert 1 not in model.tokenizer.encode("ሰላም ዓለም", "ti")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"start_from": "{folder}:sw"}, "has no pack for sw", id="language"),
        pytest.param({"start_from": "{folder}"}, "Expected FOLDER:LANG", id="no language"),
        pytest.param(
            {"start_from": "{folder}:am", "checkpoint": "{folder}/model.pth"}, "Omit one of the two", id="both"
        ),
        pytest.param({"start_from": "{folder}:am", "adapter": "lora"}, "Omit --adapter", id="adapter"),
    ],
)
def test_flags_that_a_run_cannot_start_from(folder, corpus, fails, tmp_path, changed, message):
    flags = {key: value.format(folder=folder) for key, value in changed.items()}
    code, error = fails(corpus.flags(output_dir=tmp_path / "runs", base_dir=None, max_steps=1, **flags))
    assert code == 2
    assert message in error
