"""Evaluations: losses do not depend on batching, and a model that is worse than the start is never the best."""

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

#: Tolerance for float32 rounding.
SAME = {"rel": 1e-6}


class OneOfTwo(Ranks):
    """One of two processes; its sums are added to the given sums of the other process."""

    def __init__(self, rank: int, others: list[float] | None = None) -> None:
        super().__init__(rank, 2)
        self.others, self.own = others, []

    def sum(self, values):
        self.own = list(values)
        return [a + b for a, b in zip(values, self.others or [0.0] * len(values), strict=True)]


@pytest.fixture(scope="module")
def measured(corpus):
    """A function from a batch size to the mean losses of six samples."""
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
    """Return the evaluation lines of a language, by step."""
    return {line["step"]: line for line in read_metrics(run)[1] if line["language"] == language}


@pytest.fixture(scope="module")
def flags(corpus, tmp_path_factory):
    """Flags of a run that evaluates both languages; all tests share the encoded recordings."""
    codes = tmp_path_factory.mktemp("encoded") / "codes"
    return lambda **given: [*corpus.flags(codes=codes, **given), f"--val-manifest={corpus.english}:en"]


@pytest.fixture(scope="module")
def unchanged(flags, recipe, tmp_path_factory):
    """A run of two steps with learning rate 0, evaluated before and after."""
    output = tmp_path_factory.mktemp("unchanged")
    recipe(flags(output_dir=output, learning_rate=0, weight_decay=0, max_steps=2, eval_step=2))
    return only_run(output)


@pytest.mark.parametrize(
    "batches",
    [["--batch-size=3"], pytest.param(["--batch-frames=600", "--amp=bf16"], marks=pytest.mark.slow)],
    ids=["size", "frames"],
)
def test_unchanged_weights_have_full_retention(recipe, unchanged, tmp_path, batches):
    resume = [f"--checkpoint={unchanged}", "--new-run", "--max-steps=3", "--eval-step=1", "--allow-changes"]
    recipe([*resume, *batches, f"--output-dir={tmp_path}"])
    lines = evaluated(only_run(tmp_path))
    assert lines[3]["retention"] == pytest.approx(1, **SAME)
    assert lines[3]["loss"] == pytest.approx(evaluated(unchanged)[0]["loss"], **SAME)


def test_retention_is_reported_for_merged_weights_and_for_the_folder(unchanged):
    reported = [(line["language"], line.get("retention_in_folder")) for line in read_metrics(unchanged)[1]]
    assert reported == [("am", None), ("en", 1.0)] * 2
    log = (unchanged / "trainer_0_log.txt").read_text(encoding="utf-8").splitlines()
    shown = {line.split(" · ")[1]: line for line in log if "EVAL step 2" in line}
    assert shown["en"].endswith(" · retention 1.0000 merged · 1 in the model folder")
    assert "in the model folder" not in shown["am"]


@pytest.mark.slow
def test_a_run_that_cannot_be_a_pack_reports_one_retention(flags, recipe, tmp_path):
    recipe(flags(output_dir=tmp_path, voice="trained", max_steps=1, eval_step=1))
    run = only_run(tmp_path)
    (line,) = [line for step, line in evaluated(run).items() if step == 1]
    assert "retention_in_folder" not in line
    log = (run / "trainer_0_log.txt").read_text(encoding="utf-8").splitlines()
    (shown,) = [row for row in log if "EVAL step 1 · en" in row]
    assert shown.endswith(f" · retention {line['retention']:.4f}")


@pytest.mark.parametrize("version", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_evaluations_of_earlier_releases_do_not_count(recipe, unchanged, tmp_path, caplog, version):
    old = edited(unchanged / "checkpoint_2.pth", tmp_path / "old", of_format(version))
    recipe([f"--checkpoint={old}", "--max-steps=3", "--eval-step=1"])
    assert caplog.text.count("evaluations so far depended on how samples were batched") == 1
    assert evaluated(tmp_path / "old")[3]["retention"] == pytest.approx(1, **SAME)
    record = checkpoint(tmp_path / "old", 3)["xtts_extend"]
    start = evaluated(unchanged, "am")[0]["loss"]
    assert record["version"] == 3
    assert record["state"]["best_value"] == record["state"]["start_value"] == pytest.approx(start, **SAME)
    assert f"The loss before the first step was measured again: {start:.5f}" in caplog.text


def test_a_checkpoint_of_an_earlier_release_without_its_base(corpus, recipe, unchanged, tmp_path, caplog):
    base = shutil.copytree(corpus.base, tmp_path / "base", copy_function=os.link)
    (base / "model.pth").unlink()

    missing = with_settings(started_from=str(base / "model.pth"))
    old = edited(unchanged / "checkpoint_2.pth", tmp_path / "old", of_format(2), missing)
    recipe([f"--checkpoint={old}", "--max-steps=3", "--eval-step=1", f"--base-dir={base}"])
    assert "Training continues without measuring retention" in caplog.text
    assert "retention" not in evaluated(tmp_path / "old")[3]
    # There is nothing to compare with, so the first evaluation is the best.
    assert (tmp_path / "old" / "best_model_3.pth").is_file()


@pytest.mark.slow
def test_a_model_that_is_worse_than_the_start_is_not_the_best(flags, recipe, tmp_path, caplog):
    # With this weight, nearly all of the loss is the text loss of new tokens.
    settings = {"learning_rate": 0.5, "eval_step": 1, "mel_loss_weight": 1e-3}
    message = "is no better than"
    recipe(flags(output_dir=tmp_path / "uninterrupted", max_steps=2, **settings))
    uninterrupted = only_run(tmp_path / "uninterrupted")
    start, *later = [line["loss"] for line in evaluated(uninterrupted, "am").values()]
    assert min(later) > start
    assert caplog.text.count(message) == 1
    assert f"Loss {later[0]:.5f} {message} the loss before the first step ({start:.5f})" in caplog.text
    assert "best so far" not in caplog.text
    assert not list(uninterrupted.glob("best_model*"))

    caplog.clear()
    recipe(flags(output_dir=tmp_path / "resumed", max_steps=1, **settings))
    resumed = only_run(tmp_path / "resumed")
    recipe([f"--checkpoint={resumed}", "--max-steps=2"])
    # Once per start.
    assert caplog.text.count(message) == 2
    assert (resumed / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    states = [checkpoint(run, 2)["xtts_extend"]["state"] for run in (uninterrupted, resumed)]
    require_equal(*states)
    assert states[0]["best_value"] == states[0]["start_value"] == start
    assert states[0]["evaluations_without_best"] == 2


@pytest.mark.slow
def test_a_raised_min_retention_warns_about_the_best_model(flags, recipe, tmp_path, caplog):
    recipe(flags(output_dir=tmp_path, max_steps=2, eval_step=1))
    run = only_run(tmp_path)
    state = checkpoint(run, 2)["xtts_extend"]["state"]
    (best,) = run.glob("best_model_*.pth")
    retention = evaluated(run)[int(best.stem.split("_")[2])]["retention"]
    assert state["best_retention"] == {"en": retention}
    least = round(retention + 1, 4)
    recipe([f"--checkpoint={run}", "--max-steps=3", f"--min-retention={least}"])
    below = f"is below --min-retention {least:g} (en {retention:.4f}). The next model that meets the minimum will"
    warning = f"The best model so far (loss {state['best_value']:.5f}) {below} replace it."
    assert [record.levelname for record in caplog.records if warning in record.message] == ["WARNING"]
    state = checkpoint(run, 3)["xtts_extend"]["state"]
    assert (state["best_value"], state["best_retention"]) == (state["start_value"], {})
    assert best.is_file()
