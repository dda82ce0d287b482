"""What a checkpoint records of the samples that it was trained on."""

from __future__ import annotations

import pytest
from samples import make_sample

from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.run.record import RunRecord, TrainedOn


def spoken(number, language="am", replay=False):
    return make_sample(text=f"{language} {number}", language=language, replay=replay, duration_s=36.0)


def encode(text, language):
    """The lengths of both in the place of ids."""
    return [len(text), len(language)]


def test_samples_are_counted_by_language_without_replay():
    samples = [*map(spoken, range(3)), spoken(0, "ti"), spoken(0, "en", replay=True), spoken(3)]
    found = TrainedOn.of(samples, "am", encode)
    assert found.hours == pytest.approx({"am": 0.04, "ti": 0.01})
    assert found.utterances == {"am": 4, "ti": 1}
    assert found.texts == {"am 0": [4, 2], "am 1": [4, 2], "am 2": [4, 2], "am 3": [4, 2]}


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (0, []),
        (1, [0]),
        (50, range(50)),
        (51, range(50)),
        (100, range(0, 100, 2)),
        (5000, range(0, 5000, 100)),
    ],
)
def test_fifty_texts_are_spread_evenly(count, chosen):
    found = TrainedOn.of([spoken(number) for number in range(count)], "am", encode)
    assert list(found.texts) == [f"am {one}" for one in chosen]


@pytest.mark.parametrize(
    "recorded", [TrainedOn({"am": 0.5}, {"am": 7}, {"ሰላም፣ ዓለም!": [400, 7]}), None], ids=["ours", "older"]
)
def test_it_is_read_as_it_was_written(recorded):
    record = RunRecord(None, BaseRows(3), {}, trained_on=recorded)
    assert RunRecord.of({"xtts_extend": record.to_dict()}).trained_on == recorded
    assert ("trained_on" in record.to_dict()) is (recorded is not None)
