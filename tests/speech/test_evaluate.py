"""`evaluate`: the losses are those of the run, and speech is measured with whatever recogniser is plugged in."""

import json
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
    export(run, folder)
    return folder


def test_losses_are_those_of_the_run(run, model, corpus):
    lines = {line["language"]: line for line in read_metrics(run)[1] if line["step"] == 2}
    for language, manifest in (("am", corpus.val), ("en", corpus.english)):
        found = evaluate(model, [str(manifest)], language, count=0, progress=False)
        for name in ("loss", "loss_mel_ce", "loss_text_ce"):
            assert found[name] == pytest.approx(lines[language][name], rel=1e-5)
    assert set(found) == {"language", "samples", "loss", "loss_mel_ce", "loss_text_ce"}


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


def test_what_cannot_be_evaluated(model, corpus, tmp_path):
    with pytest.raises(LanguageError, match="sw"):
        evaluate(model, [f"{corpus.english}:sw"], "sw", progress=False)
    with pytest.raises(DataError, match="is in am"):
        evaluate(model, [f"{corpus.english}:en"], "am", progress=False)
    with pytest.raises(ConfigError, match="no model folder|not a model folder"):
        evaluate(tmp_path, [str(corpus.val)], "am", progress=False)
    alone = tmp_path / "alone"
    shutil.copytree(model, alone)
    about = alone / "xtts_extend.json"
    about.write_text(json.dumps({"base_dir": str(tmp_path / "gone")}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Losses need the base's dvae\.pth .* --base-dir"):
        evaluate(alone, [str(corpus.val)], "am", progress=False)
    found = evaluate(alone, [str(corpus.val)], "am", base_dir=corpus.base, count=0, progress=False)
    assert found["samples"] == 4
