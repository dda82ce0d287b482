"""Find and count the frames of an mp3 file without decoding them.

An mp3 file has no container; it is a sequence of frames. Instead of audio, the first frame may contain a "Xing", "Info"
or "VBRI" header, which gives the number of frames that follow. Decoders accept truncated files. The length of a file
cannot be computed from the bit rate of the first frame, because the rate may vary.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from xtts_extend.data.spans import Span, id3_size
from xtts_extend.errors import DataError

# Bit rates in kbit/s by index, one row for each of the layers I, II and III.
_MPEG_1_BIT_RATES = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_MPEG_2_BIT_RATES = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = (44100, 48000, 32000)
#: Initial bytes of the tags and padding that may separate joined files.
_TAGS = (b"TAG", b"APETAGEX", b"LYRICS", b"\0\0\0\0")
_COPY = "Copy or download it again, or export it again from its source."


def require_all_frames(path: Path | str) -> list[Span]:
    """Return the spans of an mp3 file's frames, excluding tags and junk, or an empty list if it has no frames.

    If the first frame declares the number of frames, that number is compared with the frames in the file. If several
    files are joined, the first frame of each may declare a number.

    Raises:
        DataError: The file cannot be read, is truncated (it has fewer frames than it declares, or ends within a frame),
            or has bytes between its frames that are not a tag.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            spans, frames, declared, last_is_complete = _frames(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    # Some encoders also count the frame that declares the number.
    if frames + 1 < declared:
        raise DataError(
            f"{path} is truncated: its header declares {declared:,} frames, but the file has {frames:,}. {_COPY}"
        )
    if not last_is_complete:
        raise DataError(f"{path} is truncated: it ends within a frame (complete frames before it: {frames:,}). {_COPY}")
    return spans


def _frames(path: Path | str, content: mmap.mmap) -> tuple[list[Span], int, int, bool]:
    """Return the frames' spans, the numbers of audio frames found and declared, and whether the last frame is complete.

    Raises:
        DataError: Bytes between the frames are neither frames nor a tag.
    """
    spans: list[Span] = []
    frames = declared = position = 0
    kind = None
    while position + 4 <= len(content):
        size = id3_size(content[position : position + 10])
        if 0 < size < len(content) - position:
            position += size
            continue
        if not _frame_length(content, position) or _kind(content, position) != kind:
            # This is the beginning of the file, a tag at the end, or the gap between two joined files.
            begin, position = position, _next_frame(content, position)
            if position == len(content):
                break
            kind = _kind(content, position)
            is_first = not spans or _declared_frames(content[position : position + _frame_length(content, position)])
            if not is_first and position > begin and not content[begin : begin + 8].startswith(_TAGS):
                raise DataError(
                    f"{path} is damaged: the {position - begin:,} bytes starting at byte {begin:,} are not audio, but "
                    f"more audio follows. {_COPY}"
                )
        length = _frame_length(content, position)
        if position + length > len(content):
            return spans, frames, declared, False
        if count := _declared_frames(content[position : position + length]):
            declared += count
        else:
            frames += 1
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + length)
        else:
            spans.append((position, position + length))
        position += length
    return spans, frames, declared, True


def _kind(content: mmap.mmap, position: int) -> tuple[int, int]:
    """Return the header bits that all frames of a recording share: version, layer and sample rate."""
    return content[position + 1] & 0xFE, content[position + 2] & 0x0C


def _frame_length(content: mmap.mmap, position: int) -> int:
    """Return the length in bytes of the frame at `position`, or 0 if no frame begins there."""
    if position + 4 > len(content):
        return 0
    first, second, third = content[position : position + 3]
    version, layer, bits, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if first != 0xFF or second < 0xE0 or version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return 0
    sample_rate = _SAMPLE_RATES[rate] >> (0, 1, 2)[(3, 2, 0).index(version)]
    bit_rate = 1000 * (_MPEG_1_BIT_RATES if version == 3 else _MPEG_2_BIT_RATES)[layer - 1][bits]
    padding = third >> 1 & 1
    if layer == 1:
        return (12 * bit_rate // sample_rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bit_rate // sample_rate + padding


def _next_frame(content: mmap.mmap, position: int) -> int:
    """Return the offset of the next frame that is followed by a similar frame or the end, or else of the end."""
    while 0 <= (position := content.find(b"\xff", position)) <= len(content) - 4:
        if length := _frame_length(content, position):
            following = position + length
            if following == len(content):
                return position
            if _frame_length(content, following) and _kind(content, following) == _kind(content, position):
                return position
        position += 1
    return len(content)


def _declared_frames(frame: bytes) -> int:
    """Return the number of frames that this header frame says will follow, or 0 if it is an audio frame."""
    mpeg_1, mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    start = 4 + ((17 if mono else 32) if mpeg_1 else (9 if mono else 17))
    if frame[start : start + 4] in (b"Xing", b"Info") and frame[start + 7] & 1:
        return int.from_bytes(frame[start + 8 : start + 12], "big")
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    return 0
