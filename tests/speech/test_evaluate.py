"""`evaluate`: the losses are those of the run, and speech is measured with whatever recogniser is plugged in."""

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
    """Two steps, evaluated after the second."""
    output = tmp_path_factory.mktemp("evaluated")
    flags = corpus.flags(output_dir=output, max_steps=2, eval_step=2)
    recipe([*flags, f"--val-manifest={corpus.english}:en"])
    return only_run(output)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """The run's export."""
    folder = tmp_path_factory.mktemp("model") / "ሞዴል"
    export(run, folder, merged=True)
    return folder


LOSSES = ("loss", "loss_mel_ce", "loss_text_ce")


@pytest.mark.parametrize("language", ["am", "en"])
def test_losses_are_those_of_the_run(run, model, corpus, language):
    lines = {line["language"]: line for line in read_metrics(run)[1] if line["step"] == 2}
    manifest = {"am": corpus.val, "en": corpus.english}[language]
    found = evaluate(model, [str(manifest)], language, count=0, progress=False)
    assert set(found) == {"language", "samples", *LOSSES}
    assert {name: found[name] for name in LOSSES} == pytest.approx(
        {name: lines[language][name] for name in LOSSES}, rel=1e-5
    )


def test_any_callable_recognises(model, corpus):
    heard = []

    def recognise(audio, rate):
        assert (audio.dtype, audio.ndim, rate) == (np.float32, 1, 24000)
        heard.append(len(audio) / rate)
        return ""

    found = evaluate(model, [f"{corpus.val}:am"], "am", recognise=recognise, count=1, progress=False)
    assert found["spoken"] == len(heard) == 1
    # nothing was heard of what was said
    assert found["character_error_rate"] == 1
    assert found["runaway_share"] == (heard[0] > 602 * 1024 / 22050 - 0.1)
    assert -1 <= found["speaker_similarity"] <= 1
    lines = corpus.val.read_text(encoding="utf-8").splitlines()[1:2]
    characters = sum(len(line.split("|")[1]) for line in lines)
    assert found["characters_per_s"] == pytest.approx(characters / sum(heard), rel=1e-6)


def test_the_command(model, corpus, capsys):
    command = ["evaluate", f"--model={model}", f"--manifest={corpus.english}:en", "--language=en", "--samples=0"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3


@pytest.mark.parametrize(
    ("recorded", "language", "error", "message"),
    [("sw", "sw", LanguageError, "sw"), ("en", "am", DataError, "is in am")],
    ids=["a language without a tag", "recordings of another language"],
)
def test_what_cannot_be_evaluated(model, corpus, recorded, language, error, message):
    with pytest.raises(error, match=message):
        evaluate(model, [f"{corpus.english}:{recorded}"], language, progress=False)


def test_what_is_no_model(corpus, tmp_path):
    with pytest.raises(ConfigError, match="no model folder|not a model folder"):
        evaluate(tmp_path, [str(corpus.val)], "am", progress=False)


def test_a_model_whose_base_is_gone(model, corpus, tmp_path):
    alone = shutil.copytree(model, tmp_path / "alone", copy_function=os.link)
    about = alone / "xtts_extend.json"
    about.unlink()
    about.write_text(json.dumps({"base_dir": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Losses need the base's dvae\.pth .* --base-dir"):
        evaluate(alone, [str(corpus.val)], "am", progress=False)
    found = evaluate(alone, [str(corpus.val)], "am", base_dir=corpus.base, count=0, progress=False)
    assert found["samples"] == 4
