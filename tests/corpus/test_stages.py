"""Results of stages on disk: used again for the same inputs only, and never trusted if damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtts_extend.corpus.recognized import parts_of
from xtts_extend.corpus.stages import Stages
from xtts_extend.corpus.voice_activity import Span
from xtts_extend.errors import DataError


def squares(stages: Stages, inputs: int, computed: list[int], count: int = 4) -> list[int]:
    """Return squares from a stage of many steps, and list the steps that were computed."""

    def square(number: int) -> int:
        computed.append(number)
        return number * number

    return list(stages.run_each("squares", inputs, count, square))


def test_a_stage_is_computed_once_per_inputs_and_recording(tmp_path: Path) -> None:
    assert Stages(tmp_path, "a").run("one", [1], lambda: "first") == "first"
    assert Stages(tmp_path, "a").run("one", [1], lambda: "again") == "first"
    assert Stages(tmp_path, "a").run("one", [2], lambda: "other inputs") == "other inputs"
    assert Stages(tmp_path, "b").run("one", [2], lambda: "other recording") == "other recording"


def test_a_damaged_stage_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"one\.json is damaged"):
        Stages(tmp_path, "a").run("one", [], lambda: 1)


def test_steps_are_kept_one_by_one(tmp_path: Path) -> None:
    computed: list[int] = []
    assert squares(Stages(tmp_path, "a"), 1, computed, count=2) == [0, 1]
    assert squares(Stages(tmp_path, "a"), 1, computed) == [0, 1, 4, 9]
    assert computed == [0, 1, 2, 3]
    assert squares(Stages(tmp_path, "a"), 2, computed, count=1) == [0]
    assert computed == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("cut", [1, 2])
def test_an_unfinished_step_is_computed_again(tmp_path: Path, cut: int) -> None:
    computed: list[int] = []
    squares(Stages(tmp_path, "a"), 1, computed)
    path = tmp_path / "squares.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert squares(Stages(tmp_path, "a"), 1, computed) == [0, 1, 4, 9]
    assert computed[4:] == [3]
    assert path.read_bytes() == whole


def test_damaged_steps_are_named(tmp_path: Path) -> None:
    squares(Stages(tmp_path, "a"), 1, [])
    path = tmp_path / "squares.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n4\n", b"\n{4\n"))
    with pytest.raises(DataError, match=r"squares\.jsonl is damaged"):
        squares(Stages(tmp_path, "a"), 1, [])


def test_parts_contain_all_speech_and_end_in_the_longest_pauses() -> None:
    speech = [Span(5.0 * number, 5.0 * number + 4.0) for number in range(8)] + [Span(45.0, 49.0)]
    covered = parts_of(speech, 50.0)
    for span in speech:
        assert any(start <= span.start_s and span.end_s <= end for start, end in covered)
    assert all(end - start <= 28.4 for start, end in covered)


def test_speech_without_a_pause_is_divided_at_a_minute() -> None:
    parts = parts_of([Span(0.0, 130.0)], 130.0)
    assert len(parts) == 3
    assert all(end - start <= 60 for start, end in parts)
    assert (parts[0][0], parts[-1][1]) == (0.0, 130.0)


def test_no_speech_has_no_parts() -> None:
    assert parts_of([], 10.0) == []
