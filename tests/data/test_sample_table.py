"""Samples in columns are the samples that were stored."""

import pickle
from dataclasses import fields

import pytest
from samples import make_sample

from xtts_extend.data.encoded import Encoded
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import SampleTable, values

SAMPLES = [
    make_sample("ሰላም", language="am", line=7, duration_s=1.1, audio_digest="d" * 32, text_tokens=5, manifest="/m.csv"),
    make_sample(speaker_name="ሀ", reference_path="/other.wav", root_path="/data", extra={"emotion": ["calm", 3]}),
    make_sample(encoded=Encoded("/set/part-00001.arrow", 255, 22050, has_ids=True), manifest_audio_file="part#1"),
    make_sample(
        encoded=Encoded("/replay/part-00000.arrow", 0, 1024, has_distribution=True, part_digest="e" * 64),
        replay=True, conditioning_slice=(0, 66150),
    ),
]  # fmt: skip


def test_a_table_returns_what_was_stored():
    table = SampleTable(iter(SAMPLES))
    assert len(table) == 4
    assert list(table) == SAMPLES
    assert [table[position] for position in range(4)] == SAMPLES
    assert table[1::2] == SAMPLES[1::2]
    assert table[-1] == SAMPLES[-1]
    with pytest.raises(IndexError):
        table[4]
    # Loader workers that are not forked get a pickled copy.
    assert list(pickle.loads(pickle.dumps(table))) == SAMPLES
    assert list(SampleTable([])) == []
    part = table.part(1, 3)
    assert (list(part), part[0], part[-1]) == (SAMPLES[1:3], SAMPLES[1], SAMPLES[2])


def test_every_field_of_a_sample_is_stored():
    """A new field needs a column, and a value here that is not its default."""
    for field in fields(Sample):
        assert len({repr(getattr(sample, field.name)) for sample in SAMPLES}) > 1 or field.name == "audio_file"


def test_samples_of_several_blocks(monkeypatch):
    monkeypatch.setattr("xtts_extend.data.sample_table._BLOCK_ROWS", 3)
    samples = [make_sample(str(number), extra={"n": number}) for number in range(8)]
    table = SampleTable(samples)
    assert list(table) == samples
    assert table[7] == samples[7]


@pytest.mark.parametrize("name", ["text", "language", "manifest_audio_file", "replay", "duration_s", "text_tokens"])
def test_columns_equal_the_values_of_the_samples(name):
    expected = [getattr(sample, name) for sample in SAMPLES]
    assert values(SAMPLES, name) == values(SampleTable(SAMPLES), name) == expected
    assert values(SampleTable(SAMPLES).part(2, 4), name) == expected[2:]


def test_lengths_of_samples_with_and_without_codes():
    assert values(SAMPLES, "wav_length") == values(SampleTable(SAMPLES), "wav_length") == [None, None, 22050, 1024]
