"""The frames of an mp3 file, counted without decoding them.

An mp3 has no container: it is a row of frames, of which the first may hold no audio but say how many follow ("Xing",
"Info" or "VBRI"). Decoders take a truncated one for whole. A length that is computed from the first frame's bit rate
says nothing, because the rate may vary.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from xtts_extend.data.spans import Span, id3_size
from xtts_extend.errors import DataError

# kbit/s by index, of MPEG-1 layers I, II, III, and of MPEG-2 layer I, and layers II and III
_RATES_1 = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_RATES_2 = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = (44100, 48000, 32000)
#: How what may stand between joined files begins.
_TAGS = (b"TAG", b"APETAGEX", b"LYRICS", b"\0\0\0\0")
_AGAIN = "Copy or download it again, or write it again from its source."


def require_all_frames(path: Path | str) -> list[Span]:
    """Where the frames of an mp3 file are, without the tags and junk around them; none if they cannot be told.

    Their number is compared with what the first one says, or the first ones of several joined files.

    Raises:
        DataError: The file cannot be read, is truncated (it holds fewer frames than it says, or a part of one), or has
            something between its frames that is no tag.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            spans, held, promised, whole = _frames(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions and its disk.") from error
    # some encoders count the frame that says it
    if held + 1 < promised:
        raise DataError(f"{path} is truncated: its header promises {promised} frames, it holds {held}. {_AGAIN}")
    if not whole:
        raise DataError(f"{path} is truncated: it ends in the middle of a frame, after {held} whole ones. {_AGAIN}")
    return spans


def _frames(path: Path | str, content: mmap.mmap) -> tuple[list[Span], int, int, bool]:
    """Where frames are, how many of audio, how many are promised, and whether the last one is whole."""
    spans: list[Span] = []
    held = promised = position = 0
    kind = None
    while position + 4 <= len(content):
        size = id3_size(content[position : position + 10])
        if 0 < size < len(content) - position:
            position += size
            continue
        if not _frame_length(content, position) or _kind(content, position) != kind:
            # the beginning, a tag at the end, or what stands between two joined files
            begin, position = position, _next_frame(content, position)
            if position == len(content):
                break
            kind = _kind(content, position)
            begins = not spans or _declared_frames(content[position : position + _frame_length(content, position)])
            if not begins and position > begin and not content[begin : begin + 8].startswith(_TAGS):
                raise DataError(
                    f"{path} is damaged: {position - begin} bytes from byte {begin} on are no audio, and audio follows "
                    f"them. {_AGAIN}"
                )
        length = _frame_length(content, position)
        if position + length > len(content):
            return spans, held, promised, False
        if stated := _declared_frames(content[position : position + length]):
            promised += stated
        else:
            held += 1
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + length)
        else:
            spans.append((position, position + length))
        position += length
    return spans, held, promised, True


def _kind(content: mmap.mmap, position: int) -> tuple[int, int]:
    """What the frames of one recording have in common: version, layer and sample rate."""
    return content[position + 1] & 0xFE, content[position + 2] & 0x0C


def _frame_length(content: mmap.mmap, position: int) -> int:
    """Bytes of the frame whose header is here, 0 where there is none."""
    if position + 4 > len(content):
        return 0
    first, second, third = content[position : position + 3]
    version, layer, bits, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if first != 0xFF or second < 0xE0 or version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return 0
    sample_rate = _SAMPLE_RATES[rate] >> (0, 1, 2)[(3, 2, 0).index(version)]
    bit_rate = 1000 * (_RATES_1 if version == 3 else _RATES_2)[layer - 1][bits]
    padding = third >> 1 & 1
    if layer == 1:
        return (12 * bit_rate // sample_rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bit_rate // sample_rate + padding


def _next_frame(content: mmap.mmap, position: int) -> int:
    """Where a frame begins that another one of its kind or the end follows; the end of the content if nowhere."""
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
    """How many frames follow, if this one holds that number and no audio."""
    mpeg_1, mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    start = 4 + ((17 if mono else 32) if mpeg_1 else (9 if mono else 17))
    if frame[start : start + 4] in (b"Xing", b"Info") and frame[start + 7] & 1:
        return int.from_bytes(frame[start + 8 : start + 12], "big")
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    return 0
