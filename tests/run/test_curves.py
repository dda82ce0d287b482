"""What curves say: divergence and plateau are named when they begin, and not again and again."""

import pytest
from runs import write_metrics

from xtts_extend.run.curves import Curves, read_curves


def curves(evaluation, train=()) -> Curves:
    return Curves("here", list(train), list(evaluation))


def falling(count: int) -> list[tuple[int, float]]:
    return [(step, 5 / (1 + step / 50)) for step in range(count)]


#: Evaluations that get better each time, and that stand still from then on.
GAINING = [(step, 3 - step / 200) for step in range(0, 200, 20)]
STILL = [*GAINING, (200, 2.1), (220, 2.099), (240, 2.1)]


@pytest.mark.parametrize(
    ("evaluation", "train"),
    [
        pytest.param(GAINING, falling(180), id="gaining"),
        pytest.param(STILL[:-1], (), id="still lately"),
        pytest.param([(0, 3.0), (10, 3.0), (20, 3.0), (30, 3.0)], (), id="a short run"),
        pytest.param([], (), id="no evaluation"),
    ],
)
def test_nothing_to_name(evaluation, train):
    assert curves(evaluation, train).findings() == {}
    assert curves(evaluation, train).new_findings() == {}


def test_a_plateau_is_named_when_it_begins():
    named = curves(STILL).new_findings()
    assert list(named) == ["plateau"]
    assert "the last 3 evaluations gave 2.0990 at best, and 2.1000 was reached before" in named["plateau"]
    assert "docs/keeping-languages.md" in named["plateau"]
    later = curves([*STILL, (260, 2.1)])
    assert list(later.findings()) == ["plateau"]
    assert later.new_findings() == {}


def test_divergence_is_named_before_a_plateau():
    turned = [(0, 3.0), (50, 2.0), (100, 2.3), (150, 2.4), (200, 2.5)]
    named = curves(turned, falling(200)).new_findings()
    assert list(named) == ["divergence"]
    assert "was best at step 50 (2.0000) and is 2.5000 now" in named["divergence"]


def test_a_training_loss_that_ran_away_is_divergence():
    ran_away = [(step, 2.0) for step in range(900)] + [(step, 4.0) for step in range(900, 1000)]
    assert "the training loss ran away" in curves([(0, 3.0), (999, 2.9)], ran_away).findings()["divergence"]


def test_only_the_learned_language_is_judged(tmp_path):
    lines = [
        {"step": step, "eval": True, "language": language, "loss": loss}
        for step, am in enumerate((5.0, 4.0, 3.0, 2.0))
        for language, loss in (("am", am), ("en", 2.0))
    ]
    write_metrics(tmp_path, lines)
    found = read_curves(tmp_path / "checkpoint_3.pth", 3, "am")
    assert found.evaluation == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]


#: Evaluations as an older release and as this one measured them.
OLDER = [{"step": step, "eval": True, "language": "am", "loss": 2.0} for step in (0, 1)]
NEWER = [{"step": step, "eval": True, "measure": 2, "language": "am", "loss": 2.5} for step in (2, 3)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # what was measured before is no start to compare with
        pytest.param([*OLDER, *NEWER], [(2, 2.5), (3, 2.5)], id="begun by an older release"),
        pytest.param(OLDER, [(0, 2.0), (1, 2.0)], id="of an older release"),
        pytest.param([], [], id="none"),
    ],
)
def test_evaluations_of_another_measure_are_not_compared(tmp_path, lines, expected):
    write_metrics(tmp_path, lines)
    assert read_curves(tmp_path / "checkpoint_3.pth", 3, "am").evaluation == expected
