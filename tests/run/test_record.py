"""The summary of the training data in a checkpoint."""

from __future__ import annotations

import pytest
from samples import make_sample

from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.run.record import RunRecord, TrainedOn


def sample(number, language="am", replay=False):
    return make_sample(text=f"{language} {number}", language=language, replay=replay, duration_s=36.0)


def encode(text, language):
    """Return the lengths of text and language instead of token ids."""
    return [len(text), len(language)]


def test_samples_are_counted_by_language_without_replay():
    samples = [*map(sample, range(3)), sample(0, "ti"), sample(0, "en", replay=True), sample(3)]
    trained_on = TrainedOn.of(samples, "am", encode)
    assert trained_on.hours == pytest.approx({"am": 0.04, "ti": 0.01})
    assert trained_on.utterances == {"am": 4, "ti": 1}
    assert trained_on.texts == {"am 0": [4, 2], "am 1": [4, 2], "am 2": [4, 2], "am 3": [4, 2]}


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
    trained_on = TrainedOn.of([sample(number) for number in range(count)], "am", encode)
    assert list(trained_on.texts) == [f"am {number}" for number in chosen]


@pytest.mark.parametrize(
    "recorded", [TrainedOn({"am": 0.5}, {"am": 7}, {"ሰላም፣ ዓለም!": [400, 7]}), None], ids=["ours", "older"]
)
def test_record_round_trip(recorded):
    record = RunRecord(None, BaseRows(3), {}, trained_on=recorded)
    assert RunRecord.of({"xtts_extend": record.to_dict()}).trained_on == recorded
    assert ("trained_on" in record.to_dict()) is (recorded is not None)
