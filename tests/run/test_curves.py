"""What curves say: divergence and plateau are named when they begin, and not again and again."""

import json

from xtts_extend.run.curves import Curves, read_curves


def curves(evaluation, train=()) -> Curves:
    return Curves("here", list(train), list(evaluation))


def falling(count: int) -> list[tuple[int, float]]:
    return [(step, 5 / (1 + step / 50)) for step in range(count)]


def test_a_plateau_is_named_when_it_begins():
    gaining = [(step, 3 - step / 200) for step in range(0, 200, 20)]
    assert curves(gaining, falling(180)).named() == {}
    still = [*gaining, (200, 2.1), (220, 2.099), (240, 2.1)]
    assert curves(still[:-1]).named() == {}
    named = curves(still).onset()
    assert list(named) == ["plateau"]
    assert "the last 3 evaluations gave 2.0990 at best, and 2.1000 was reached before" in named["plateau"]
    assert "docs/keeping-languages.md" in named["plateau"]
    later = curves([*still, (260, 2.1)])
    assert list(later.named()) == ["plateau"]
    assert later.onset() == {}


def test_divergence_is_named_before_a_plateau():
    turned = [(0, 3.0), (50, 2.0), (100, 2.3), (150, 2.4), (200, 2.5)]
    named = curves(turned, falling(200)).onset()
    assert list(named) == ["divergence"]
    assert "was best at step 50 (2.0000) and is 2.5000 now" in named["divergence"]
    ran_away = [(step, 2.0 if step < 900 else 4.0) for step in range(1000)]
    assert "the training loss ran away" in curves([(0, 3.0), (999, 2.9)], ran_away).named()["divergence"]


def test_short_runs_say_nothing():
    assert curves([(0, 3.0), (10, 3.0), (20, 3.0), (30, 3.0)]).named() == {}
    assert curves([]).onset() == {}


def test_only_the_learned_language_is_judged(tmp_path):
    lines = [
        {"step": step, "eval": True, "language": language, "loss": loss}
        for step, am in enumerate((5.0, 4.0, 3.0, 2.0))
        for language, loss in (("am", am), ("en", 2.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = read_curves(tmp_path / "checkpoint_3.pth", 3, "am")
    assert found.evaluation == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]


def test_evaluations_of_another_measure_are_not_compared(tmp_path):
    """A run that an older release began: what it measured before is no start to compare with."""
    older = [{"step": step, "eval": True, "language": "am", "loss": 2.0} for step in (0, 1)]
    newer = [{"step": step, "eval": True, "measure": 2, "language": "am", "loss": 2.5} for step in (2, 3)]

    def evaluation(lines):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return read_curves(tmp_path / "checkpoint_3.pth", 3, "am").evaluation

    assert evaluation([*older, *newer]) == [(2, 2.5), (3, 2.5)]
    assert evaluation(older) == [(0, 2.0), (1, 2.0)]
    assert evaluation([]) == []
