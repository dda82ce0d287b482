"""A sample, and its dictionary for coqui."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from samples import make_sample

from xtts_extend.data.encoded import Encoded


def test_the_dictionary_has_coquis_keys_and_the_formatters():
    sample = make_sample("One", speaker_name="anna", root_path="/nowhere", manifest="/nowhere/m.1.csv", text_tokens=3)
    assert sample.to_coqui() == {
        "text": "One",
        "audio_file": "/nowhere/a.wav",
        "speaker_name": "anna",
        "root_path": "/nowhere",
        "language": "en",
        "audio_unique_name": "m.1#a",
    }
    formatted = replace(sample, reference_path="/nowhere/b.wav", extra={"mood": 3, "text": "another"}).to_coqui()
    assert formatted == sample.to_coqui() | {"reference_path": "/nowhere/b.wav", "mood": 3}


def test_a_sample_is_immutable_and_can_be_pickled():
    sample = make_sample(encoded=Encoded("part.arrow", 3, 2048, has_ids=True), conditioning_slice=(0, 9))
    with pytest.raises(FrozenInstanceError):
        sample.text = "another"
    assert pickle.loads(pickle.dumps(sample)) == sample
