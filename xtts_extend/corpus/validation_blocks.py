"""Divide clips into training and validation by blocks of time, so that new recordings and clips move no other clip.

Clips that follow each other share their topic, their sentence or even a breath. So validation clips are not drawn one
by one: each recording is divided into blocks of a minute, a digest decides which blocks are for validation, and the
training clip on each border is set aside.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xtts_extend.corpus.clip import Clip, Reason, RecordingSummary

logger = logging.getLogger("trainer")

#: Share of the recordings that is for validation.
VALIDATION_SHARE = 0.05
BLOCK_S = 60.0
# Recordings with this many blocks always have one for validation; of shorter ones, only some do.
_ALWAYS_FROM_BLOCKS = 10
_BORDER = "The clip is next to the validation set."


def split_clips(
    clips: Sequence[Clip], recordings: Iterable[RecordingSummary], share: float = VALIDATION_SHARE
) -> list[Clip]:
    """Return the clips with their split. On each border, a training clip is set aside, even if it was edited.

    A clip belongs to the block of its start. If no clip is for validation, a warning says what to do.

    Args:
        clips: Accepted clips, and clips that are set aside, which stay as they are.
        recordings: The recordings of the clips.
        share: Share of the blocks that is for validation.
    """
    by_recording: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.rejected is None:
            by_recording[clip.recording_id].append(clip)
    new: dict[str, Clip] = {}
    for recording in recordings:
        blocks = validation_blocks(recording.digest, recording.duration_s, share)
        new |= _split_recording(by_recording[recording.id], blocks)
    divided = [new.get(clip.id, clip) for clip in clips]
    if new and not any(clip.split == "val" for clip in divided):
        logger.warning(
            " ! No clip is for validation, so there is no val.csv. Add recordings, or pass clips of your own as "
            "--val-manifest."
        )
    return divided


def validation_blocks(digest: str, duration_s: float, share: float = VALIDATION_SHARE) -> set[int]:
    """Return the numbers of the blocks of a recording that are for validation, counted from 0.

    Args:
        digest: Digest of the recording, which alone decides.
        duration_s: Length of the recording in seconds.
        share: Share of the blocks, 0 to 1. Rounded for ten blocks or more, but at least one; fewer blocks have their
            share on average over many recordings.
    """
    blocks = -int(-duration_s // BLOCK_S)
    wanted = blocks * share
    if blocks >= _ALWAYS_FROM_BLOCKS:
        count = max(1, round(wanted)) if share > 0 else 0
    else:
        count = int(wanted + _hash(digest, "count") / 2**64)
    return set(sorted(range(blocks), key=lambda block: _hash(digest, str(block)))[:count])


def _hash(digest: str, part: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{digest} {part}".encode(), digest_size=8).digest(), "big")


def _split_recording(clips: Iterable[Clip], validation: set[int]) -> Mapping[str, Clip]:
    """Return the accepted clips of a recording with their split, by id."""
    ordered = sorted(clips, key=lambda clip: (clip.start_s, clip.id))
    starts = [clip.start_s for clip in ordered]
    split = {clip.id: replace(clip, split="val" if _block(clip) in validation else "train") for clip in ordered}
    for block in validation:
        first, after = (bisect_left(starts, edge * BLOCK_S) for edge in (block, block + 1))
        for index, beside in ((first - 1, block - 1), (after, block + 1)):
            # A clip further away is not a neighbor, and a block without clips has none.
            is_neighbor = first < after and 0 <= index < len(ordered) and _block(ordered[index]) == beside
            if is_neighbor and beside not in validation:
                split[ordered[index].id] = replace(ordered[index], rejected=Reason.BORDER, detail=_BORDER)
    return split


def _block(clip: Clip) -> int:
    return int(clip.start_s // BLOCK_S)
