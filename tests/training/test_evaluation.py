"""Evaluations: what they measure does not depend on batches."""

from __future__ import annotations

import pytest
from networks import base_weights, config_for
from runs import only_run

from xtts_extend.data.check import check_samples
from xtts_extend.data.manifest import read_manifests
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.training.evaluation import mean_losses
from xtts_extend.training.loaders import eval_loader
from xtts_extend.training.metrics import read_metrics
from xtts_extend.training.ranks import Ranks
from xtts_extend.training.samples import limits_of

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


def test_losses_do_not_depend_on_batches(corpus):
    config = config_for(corpus.base)
    model = ExtendedGPTTrainer(config)
    model.load_base(base_weights(corpus.base), model.vocab_size)
    samples = read_manifests([f"{corpus.english}:en"], "en")
    samples = check_samples([*samples, *samples], model.xtts.tokenizer, limits_of(config), progress=False).usable
    assert len(samples) == 6

    def measured(batch_size, ranks=None):
        config.eval_batch_size = batch_size
        ranks = ranks or Ranks()
        return mean_losses(model, eval_loader(config, model.xtts.tokenizer, samples, ranks), ranks)

    one = measured(1)
    assert one["loss"] == one["loss_text_ce"] + one["loss_mel_ce"]
    for batch_size in (4, 8):
        assert measured(batch_size) == pytest.approx(one, **SAME), batch_size
    second = OneOfTwo(1)
    measured(2, second)
    assert measured(2, OneOfTwo(0, second.own)) == pytest.approx(one, **SAME)


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


def test_what_is_unchanged_is_kept_whole(recipe, unmoved, tmp_path):
    resume = [f"--checkpoint={unmoved}", "--new-run", "--max-steps=3", "--eval-step=1", "--allow-changes"]
    for name, flags in {"size": ["--batch-size=3"], "frames": ["--batch-frames=600", "--amp=bf16"]}.items():
        recipe([*resume, *flags, f"--output-dir={tmp_path / name}"])
        lines = evaluated(only_run(tmp_path / name))
        assert lines[3]["retention"] == pytest.approx(1, **SAME), name
        assert lines[3]["loss"] == pytest.approx(evaluated(unmoved)[0]["loss"], **SAME), name
