"""`evaluate` computes the run's losses, and measures speech with any recognizer."""

import json
import os
import shutil

import numpy as np
import pytest
from runs import only_run

from xtts_extend.cli import main
from xtts_extend.errors import ConfigError, DataError, LanguageError
from xtts_extend.run.metrics import read_metrics
from xtts_extend.speech.evaluate import evaluate
from xtts_extend.speech.export import export


@pytest.fixture(scope="module")
def run(corpus, recipe, tmp_path_factory):
    """A run of two steps, evaluated after the second."""
    output = tmp_path_factory.mktemp("evaluated")
    flags = corpus.flags(output_dir=output, max_steps=2, eval_step=2)
    recipe([*flags, f"--val-manifest={corpus.english}:en"])
    return only_run(output)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """The run's merged export."""
    folder = tmp_path_factory.mktemp("model") / "ሞዴል"
    export(run, folder, merged=True)
    return folder


LOSSES = ("loss", "loss_mel_ce", "loss_text_ce")


@pytest.mark.parametrize("language", ["am", "en"])
def test_losses_equal_the_runs(run, model, corpus, language):
    lines = {line["language"]: line for line in read_metrics(run)[1] if line["step"] == 2}
    manifest = {"am": corpus.val, "en": corpus.english}[language]
    result = evaluate(model, [str(manifest)], language, count=0, progress=False)
    assert set(result) == {"language", "samples", *LOSSES}
    assert {name: result[name] for name in LOSSES} == pytest.approx(
        {name: lines[language][name] for name in LOSSES}, rel=1e-5
    )


def test_any_callable_is_a_recognizer(model, corpus):
    durations_s = []

    def recognise(audio, rate):
        assert (audio.dtype, audio.ndim, rate) == (np.float32, 1, 24000)
        durations_s.append(len(audio) / rate)
        return ""

    result = evaluate(model, [f"{corpus.val}:am"], "am", recognise=recognise, count=1, progress=False)
    assert result["spoken"] == len(durations_s) == 1
    # The recognizer returns an empty transcript.
    assert result["character_error_rate"] == 1
    assert result["runaway_share"] == (durations_s[0] > 602 * 1024 / 22050 - 0.1)
    assert -1 <= result["speaker_similarity"] <= 1
    lines = corpus.val.read_text(encoding="utf-8").splitlines()[1:2]
    characters = sum(len(line.split("|")[1]) for line in lines)
    assert result["characters_per_s"] == pytest.approx(characters / sum(durations_s), rel=1e-6)


def test_the_command(model, corpus, capsys):
    command = ["evaluate", f"--model={model}", f"--manifest={corpus.english}:en", "--language=en", "--samples=0"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3


@pytest.mark.parametrize(
    ("recorded", "language", "error", "message"),
    [("sw", "sw", LanguageError, "sw"), ("en", "am", DataError, "No samples for language am")],
    ids=["a language without a tag", "recordings of another language"],
)
def test_languages_that_cannot_be_evaluated(model, corpus, recorded, language, error, message):
    with pytest.raises(error, match=message):
        evaluate(model, [f"{corpus.english}:{recorded}"], language, progress=False)


def test_a_folder_without_a_model(corpus, tmp_path):
    with pytest.raises(ConfigError, match="no model folder|not a model folder"):
        evaluate(tmp_path, [str(corpus.val)], "am", progress=False)


def test_a_model_whose_base_is_missing(model, corpus, tmp_path):
    copied = shutil.copytree(model, tmp_path / "alone", copy_function=os.link)
    metadata = copied / "xtts_extend.json"
    metadata.unlink()
    metadata.write_text(json.dumps({"base_dir": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Computing losses requires the base's dvae\.pth .* --base-dir"):
        evaluate(copied, [str(corpus.val)], "am", progress=False)
    result = evaluate(copied, [str(corpus.val)], "am", base_dir=corpus.base, count=0, progress=False)
    assert result["samples"] == 4
