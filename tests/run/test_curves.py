"""Analysis of loss curves: divergence and plateaus are reported once, when they begin."""

import pytest
from runs import write_metrics

from xtts_extend.run.curves import Curves, read_curves


def curves(evaluation, train=()) -> Curves:
    return Curves("here", list(train), list(evaluation))


def falling(count: int) -> list[tuple[int, float]]:
    return [(step, 5 / (1 + step / 50)) for step in range(count)]


#: Evaluations that improve every time.
IMPROVING = [(step, 3 - step / 200) for step in range(0, 200, 20)]
#: The same, followed by a plateau.
PLATEAU = [*IMPROVING, (200, 2.1), (220, 2.099), (240, 2.1)]


@pytest.mark.parametrize(
    ("evaluation", "train"),
    [
        pytest.param(IMPROVING, falling(180), id="improving"),
        pytest.param(PLATEAU[:-1], (), id="too short for a plateau"),
        pytest.param([(0, 3.0), (10, 3.0), (20, 3.0), (30, 3.0)], (), id="a short run"),
        pytest.param([], (), id="no evaluation"),
    ],
)
def test_no_findings(evaluation, train):
    assert curves(evaluation, train).findings() == {}
    assert curves(evaluation, train).new_findings() == {}


def test_plateau_is_reported_when_it_begins():
    findings = curves(PLATEAU).new_findings()
    assert list(findings) == ["plateau"]
    expected = "the best loss in the last 3 evaluations was 2.0990, and the best one before that was 2.1000"
    assert expected in findings["plateau"]
    assert "docs/keeping-languages.md" in findings["plateau"]
    later = curves([*PLATEAU, (260, 2.1)])
    assert list(later.findings()) == ["plateau"]
    assert later.new_findings() == {}


def test_divergence_is_reported_instead_of_a_plateau():
    rising = [(0, 3.0), (50, 2.0), (100, 2.3), (150, 2.4), (200, 2.5)]
    findings = curves(rising, falling(200)).new_findings()
    assert list(findings) == ["divergence"]
    assert "was lowest at step 50 (2.0000) and is now 2.5000" in findings["divergence"]


def test_rising_training_loss_is_divergence():
    rising = [(step, 2.0) for step in range(900)] + [(step, 4.0) for step in range(900, 1000)]
    assert "the training loss diverged" in curves([(0, 3.0), (999, 2.9)], rising).findings()["divergence"]


def test_evaluations_of_other_languages_are_ignored(tmp_path):
    lines = [
        {"step": step, "eval": True, "language": language, "loss": loss}
        for step, am in enumerate((5.0, 4.0, 3.0, 2.0))
        for language, loss in (("am", am), ("en", 2.0))
    ]
    write_metrics(tmp_path, lines)
    read = read_curves(tmp_path / "checkpoint_3.pth", 3, "am")
    assert read.evaluation == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]


#: Lines of evaluations by an older release and by this one.
OLDER = [{"step": step, "eval": True, "language": "am", "loss": 2.0} for step in (0, 1)]
NEWER = [{"step": step, "eval": True, "measure": 2, "language": "am", "loss": 2.5} for step in (2, 3)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # The older losses must not count as the loss before the first step.
        pytest.param([*OLDER, *NEWER], [(2, 2.5), (3, 2.5)], id="begun by an older release"),
        pytest.param(OLDER, [(0, 2.0), (1, 2.0)], id="of an older release"),
        pytest.param([], [], id="none"),
    ],
)
def test_evaluations_of_another_measure_are_not_compared(tmp_path, lines, expected):
    write_metrics(tmp_path, lines)
    assert read_curves(tmp_path / "checkpoint_3.pth", 3, "am").evaluation == expected
