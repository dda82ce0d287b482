"""Lengths of samples in frames."""

from types import SimpleNamespace

import pytest
from samples import make_sample

from xtts_extend.data.encoded import Encoded
from xtts_extend.errors import ConfigError
from xtts_extend.training.loaders import sample_frames

ARGS = SimpleNamespace(gpt_use_perceiver_resampler=True, gpt_code_stride_len=1024)


def test_frames_of_encoded_samples():
    samples = [
        make_sample(text_tokens=7, encoded=Encoded("part.arrow", row, length)) for row, length in ((0, 1024), (1, 1025))
    ]
    shorter, longer = sample_frames(samples, ARGS)
    assert longer - shorter == 1
    more_text = make_sample(text_tokens=17, encoded=Encoded("part.arrow", 0, 1024))
    assert sample_frames([more_text], ARGS) == [shorter + 10]


@pytest.mark.parametrize(
    "known", [{"text_tokens": 7}, {"encoded": Encoded("part.arrow", 0, 1024)}], ids=["text", "codes"]
)
def test_a_sample_that_is_not_encoded_is_named(known):
    with pytest.raises(ConfigError, match=r"--batch-frames: a\.wav is not encoded"):
        sample_frames([make_sample(**known)], ARGS)
