"""Evaluations: what they measure does not depend on batches, and what is worse than the start is no best model."""

from __future__ import annotations

import os
import shutil

import pytest
from checkpoints import edited, of_format, with_settings
from networks import base_weights
from runs import checkpoint, only_run, require_equal

from xtts_extend.data.check import check_samples
from xtts_extend.data.manifest import read_manifests
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.metrics import read_metrics
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.base import config_for_base
from xtts_extend.setup.samples import limits_of
from xtts_extend.training.evaluation import mean_losses
from xtts_extend.training.loaders import eval_loader

#: Equal but for rounding in float32.
SAME = {"rel": 1e-6}


class OneOfTwo(Ranks):
    """A process of two whose sums are added to those of the other one."""

    def __init__(self, rank: int, others: list[float] | None = None) -> None:
        super().__init__(rank, 2)
        self.others, self.own = others, []

    def sum(self, values):
        self.own = list(values)
        return [a + b for a, b in zip(values, self.others or [0.0] * len(values), strict=True)]


@pytest.fixture(scope="module")
def measured(corpus):
    """The mean losses of six samples in batches of a size."""
    config = config_for_base(corpus.base)
    model = ExtendedGPTTrainer(config)
    model.load_base(base_weights(corpus.base), model.vocab_size)
    samples = read_manifests([f"{corpus.english}:en"], "en")
    samples = check_samples([*samples, *samples], model.xtts.tokenizer, limits_of(config), progress=False).usable
    assert len(samples) == 6

    def measure(batch_size, ranks=None):
        config.eval_batch_size = batch_size
        ranks = ranks or Ranks()
        return mean_losses(model, eval_loader(config, model.xtts.tokenizer, samples, ranks), ranks)

    return measure


@pytest.fixture(scope="module")
def one_by_one(measured):
    return measured(1)


def test_a_loss_is_the_sum_of_its_parts(one_by_one):
    assert one_by_one["loss"] == one_by_one["loss_text_ce"] + one_by_one["loss_mel_ce"]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_losses_do_not_depend_on_batches(measured, one_by_one, batch_size):
    assert measured(batch_size) == pytest.approx(one_by_one, **SAME)


def test_losses_do_not_depend_on_processes(measured, one_by_one):
    second = OneOfTwo(1)
    measured(2, second)
    assert measured(2, OneOfTwo(0, second.own)) == pytest.approx(one_by_one, **SAME)


def evaluated(run, language="en") -> dict[int, dict]:
    """The lines of a language by their step."""
    return {line["step"]: line for line in read_metrics(run)[1] if line["language"] == language}


@pytest.fixture(scope="module")
def flags(corpus, tmp_path_factory):
    """Flags of a run that evaluates both languages; the recordings are encoded once for all."""
    codes = tmp_path_factory.mktemp("encoded") / "codes"
    return lambda **given: [*corpus.flags(codes=codes, **given), f"--val-manifest={corpus.english}:en"]


@pytest.fixture(scope="module")
def unmoved(flags, recipe, tmp_path_factory):
    """Two steps that change nothing, evaluated before and after them."""
    output = tmp_path_factory.mktemp("unmoved")
    recipe(flags(output_dir=output, learning_rate=0, weight_decay=0, max_steps=2, eval_step=2))
    return only_run(output)


@pytest.mark.parametrize(
    "batches",
    [["--batch-size=3"], pytest.param(["--batch-frames=600", "--amp=bf16"], marks=pytest.mark.slow)],
    ids=["size", "frames"],
)
def test_what_is_unchanged_is_kept_whole(recipe, unmoved, tmp_path, batches):
    resume = [f"--checkpoint={unmoved}", "--new-run", "--max-steps=3", "--eval-step=1", "--allow-changes"]
    recipe([*resume, *batches, f"--output-dir={tmp_path}"])
    lines = evaluated(only_run(tmp_path))
    assert lines[3]["retention"] == pytest.approx(1, **SAME)
    assert lines[3]["loss"] == pytest.approx(evaluated(unmoved)[0]["loss"], **SAME)


def test_what_is_kept_is_said_of_the_merged_weights_and_of_the_folder(unmoved):
    said = [(line["language"], line.get("retention_in_folder")) for line in read_metrics(unmoved)[1]]
    assert said == [("am", None), ("en", 1.0)] * 2
    log = (unmoved / "trainer_0_log.txt").read_text(encoding="utf-8").splitlines()
    shown = {line.split(" · ")[1]: line for line in log if "EVAL step 2" in line}
    assert shown["en"].endswith(" · retention 1.0000 merged · 1 in the folder")
    assert "in the folder" not in shown["am"]


@pytest.mark.slow
def test_what_cannot_be_kept_apart_is_said_as_it_is(flags, recipe, tmp_path):
    recipe(flags(output_dir=tmp_path, voice="trained", max_steps=1, eval_step=1))
    run = only_run(tmp_path)
    (line,) = [line for step, line in evaluated(run).items() if step == 1]
    assert "retention_in_folder" not in line
    log = (run / "trainer_0_log.txt").read_text(encoding="utf-8").splitlines()
    (shown,) = [row for row in log if "EVAL step 1 · en" in row]
    assert shown.endswith(f" · retention {line['retention']:.4f}")


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_evaluations_of_earlier_releases_do_not_count(recipe, unmoved, tmp_path, caplog, version):
    old = edited(unmoved / "checkpoint_2.pth", tmp_path / "old", of_format(version))
    recipe([f"--checkpoint={old}", "--max-steps=3", "--eval-step=1"])
    assert caplog.text.count("evaluations so far depended on how they were batched") == 1
    assert evaluated(tmp_path / "old")[3]["retention"] == pytest.approx(1, **SAME)
    record = checkpoint(tmp_path / "old", 3)["xtts_extend"]
    start = evaluated(unmoved, "am")[0]["loss"]
    assert record["version"] == 3
    assert record["state"]["best_value"] == record["state"]["start_value"] == pytest.approx(start, **SAME)
    assert f"loss {start:.5f} before the first step, measured again" in caplog.text


def test_an_earlier_release_whose_base_is_gone(corpus, recipe, unmoved, tmp_path, caplog):
    base = shutil.copytree(corpus.base, tmp_path / "base", copy_function=os.link)
    (base / "model.pth").unlink()

    gone = with_settings(started_from=str(base / "model.pth"))
    old = edited(unmoved / "checkpoint_2.pth", tmp_path / "old", of_format(2), gone)
    recipe([f"--checkpoint={old}", "--max-steps=3", "--eval-step=1", f"--base-dir={base}"])
    assert "retention of old languages cannot be measured" in caplog.text
    assert "retention" not in evaluated(tmp_path / "old")[3]
    # nothing to compare with: the first evaluation is the best
    assert (tmp_path / "old" / "best_model_3.pth").is_file()


@pytest.mark.slow
def test_what_is_worse_than_the_start_is_no_best_model(flags, recipe, tmp_path, caplog):
    # what is left is the loss of the text, of tokens that are read for the first time
    given = {"learning_rate": 0.5, "eval_step": 1, "mel_loss_weight": 1e-3}
    said = "is no better than"
    recipe(flags(output_dir=tmp_path / "whole", max_steps=2, **given))
    whole = only_run(tmp_path / "whole")
    start, *later = [line["loss"] for line in evaluated(whole, "am").values()]
    assert min(later) > start
    assert caplog.text.count(said) == 1
    assert f"loss {later[0]:.5f} {said} {start:.5f} before the first step" in caplog.text
    assert "best so far" not in caplog.text
    assert not list(whole.glob("best_model*"))

    caplog.clear()
    recipe(flags(output_dir=tmp_path / "parts", max_steps=1, **given))
    parts = only_run(tmp_path / "parts")
    recipe([f"--checkpoint={parts}", "--max-steps=2"])
    # once per start
    assert caplog.text.count(said) == 2
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    states = [checkpoint(run, 2)["xtts_extend"]["state"] for run in (whole, parts)]
    require_equal(*states)
    assert states[0]["best_value"] == states[0]["start_value"] == start
    assert states[0]["evaluations_without_best"] == 2


@pytest.mark.slow
def test_a_raised_min_retention_speaks_of_the_best_model(flags, recipe, tmp_path, caplog):
    recipe(flags(output_dir=tmp_path, max_steps=2, eval_step=1))
    run = only_run(tmp_path)
    state = checkpoint(run, 2)["xtts_extend"]["state"]
    (best,) = run.glob("best_model_*.pth")
    kept = evaluated(run)[int(best.stem.split("_")[2])]["retention"]
    assert state["best_retention"] == {"en": kept}
    least = round(kept + 1, 4)
    recipe([f"--checkpoint={run}", "--max-steps=3", f"--min-retention={least}"])
    below = f"is below --min-retention {least:g} (en {kept:.4f}). The next model above it replaces it."
    warning = f"the best model so far, with loss {state['best_value']:.5f}, {below}"
    assert [record.levelname for record in caplog.records if warning in record.message] == ["WARNING"]
    state = checkpoint(run, 3)["xtts_extend"]["state"]
    assert (state["best_value"], state["best_retention"]) == (state["start_value"], {})
    assert best.is_file()
