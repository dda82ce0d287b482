"""The split is a function of each recording alone, and no training clip is beside a validation clip."""

import logging
from dataclasses import replace
from itertools import pairwise

import pytest
from clips import make_clip

from xtts_extend.corpus.clip import Reason, RecordingSummary
from xtts_extend.corpus.validation_blocks import split_clips, validation_blocks

DIGESTS = [f"{number:032x}" for number in range(400)]


def recording(digest, minutes):
    return RecordingSummary(f"r-{digest}", "r.mp3", digest, minutes * 60.0, minutes * 50.0, "")


def clips_of(summary, every_s=10.0):
    count = int(summary.duration_s / every_s)
    return [make_clip(number * every_s, recording_id=summary.id) for number in range(count)]


@pytest.mark.parametrize(
    ("minutes", "share", "count"),
    [(9.5, 0.05, 1), (10, 0.05, 1), (29, 0.05, 1), (31, 0.05, 2), (600, 0.05, 30), (600, 0, 0), (10, 1, 10), (0, 1, 0)],
)
def test_number_of_blocks(minutes, share, count):
    blocks = validation_blocks(DIGESTS[0], minutes * 60, share)
    assert len(blocks) == count
    assert all(0 <= block < minutes for block in blocks)


def test_blocks_do_not_change_between_releases():
    assert validation_blocks(DIGESTS[1], 3600) == {7, 14, 52}


def test_short_recordings_have_their_share_together():
    blocks = [validation_blocks(digest, 4 * 60) for digest in DIGESTS]
    assert {len(one) for one in blocks} == {0, 1}
    assert sum(map(len, blocks)) / (4 * len(DIGESTS)) == pytest.approx(0.05, abs=0.01)
    assert {block for one in blocks for block in one} == {0, 1, 2, 3}


@pytest.mark.parametrize("share", [0.05, 0.5, 1])
def test_borders(share):
    one = recording(DIGESTS[1], 60)
    clips = split_clips(clips_of(one), [one], share)
    blocks = validation_blocks(one.digest, one.duration_s, share)
    assert {int(clip.start_s // 60) for clip in clips if clip.split == "val"} == blocks
    assert sum(clip.split == "val" for clip in clips) == 6 * len(blocks)
    for earlier, later in pairwise(clips):
        assert {earlier.split, later.split} != {"train", "val"}
    border = [clip for clip in clips if clip.rejected is Reason.BORDER]
    assert all(clip.split is None for clip in border)
    beside = {start for block in blocks for start in (block * 60.0 - 10, block * 60.0 + 60) if 0 <= start < 3600}
    assert [clip.start_s for clip in border] == sorted(start for start in beside if start // 60 not in blocks)


def test_clips_that_are_set_aside_are_not_neighbors():
    one = recording(DIGESTS[1], 60)
    block = max(validation_blocks(one.digest, one.duration_s))
    clips = {clip.start_s: clip for clip in clips_of(one)}
    last = block * 60.0 - 10
    clips[last] = replace(clips[last], rejected=Reason.NOISY, detail="Noise.")
    clips[last - 10] = replace(clips[last - 10], edited=True)
    divided = {clip.start_s: clip for clip in split_clips(list(clips.values()), [one])}
    assert divided[last] == clips[last]
    assert divided[last - 10].rejected is Reason.BORDER


def test_gaps_are_no_borders():
    one = recording(DIGESTS[1], 60)
    block = max(validation_blocks(one.digest, one.duration_s))
    far = [clip for clip in clips_of(one) if int(clip.start_s // 60) not in (block - 1, block + 1)]
    assert Reason.BORDER not in {
        clip.rejected for clip in split_clips(far, [one]) if abs(clip.start_s / 60 - block) < 4
    }
    empty = [clip for clip in clips_of(one) if int(clip.start_s // 60) != block]
    assert {clip.split for clip in split_clips(empty, [one]) if int(clip.start_s // 60) in (block - 1, block + 1)} == {
        "train"
    }


def test_a_clip_over_the_border_is_set_aside():
    one = recording(DIGESTS[1], 60)
    border = max(validation_blocks(one.digest, one.duration_s)) * 60.0
    clips = [make_clip(border - 1, recording_id=one.id), make_clip(border + 5, recording_id=one.id)]
    assert [clip.split for clip in split_clips(clips, [one])] == [None, "val"]


def test_new_recordings_and_clips_move_no_clip():
    old, new = recording(DIGESTS[1], 60), recording(DIGESTS[2], 60)
    alone = split_clips(clips_of(old), [old])
    together = split_clips([*clips_of(new), *clips_of(old)], [new, old])
    assert [clip for clip in together if clip.recording_id == old.id] == alone
    more = split_clips(clips_of(old, 5.0), [old])
    assert [clip.split for clip in alone if clip.split == "val"] == [
        clip.split for clip in more if clip.start_s % 10 == 0 and clip.split == "val"
    ]


def test_no_validation_clips_is_said(caplog):
    one = recording(DIGESTS[0], 1)
    with caplog.at_level(logging.WARNING, "trainer"):
        assert {clip.split for clip in split_clips(clips_of(one), [one])} == {"train"}
    assert "No clip is for validation, so there is no val.csv. Add recordings" in caplog.text
    caplog.clear()
    split_clips([], [])
    assert caplog.text == ""
