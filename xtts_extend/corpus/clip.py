"""Clips, what is set aside instead of becoming one, and `clips.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Literal, TypeVar, cast

from xtts_extend.errors import DataError

#: The file that lists all clips, accepted and set aside, in the output folder.
CLIPS_FILE = "clips.jsonl"
#: The shortest clip, in seconds. XTTS says little in less, and its start and end are hard to hear.
SHORTEST_CLIP_S = 1.0
#: The longest clip that XTTS trains on, in seconds: 255,995 samples at 22,050 Hz, rounded down.
LONGEST_CLIP_S = 11.6
T = TypeVar("T")


class Reason(str, Enum):
    """Why a clip, a part of the text or a part of a recording is set aside."""

    TEXT_WITHOUT_SPEECH = "text_without_speech"
    SPEECH_WITHOUT_TEXT = "speech_without_text"
    CROSSING = "crossing"
    LOW_SCORE = "low_score"
    ERROR_RATE = "error_rate"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NO_PAUSE = "no_pause"
    TOO_FAST = "too_fast"
    TOO_SLOW = "too_slow"
    NOISY = "noisy"
    CLIPPING = "clipping"
    DIGITS = "digits"
    MARKUP = "markup"
    BORDER = "border"
    DROPPED = "dropped"
    UNUSABLE_RECORDING = "unusable_recording"

    @property
    def meaning(self) -> str:
        """The reason in words, as a heading for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Reason.TEXT_WITHOUT_SPEECH: "Text without speech",
    Reason.SPEECH_WITHOUT_TEXT: "Speech without text",
    Reason.CROSSING: "Text in a different order than the speech",
    Reason.LOW_SCORE: "Low alignment score",
    Reason.ERROR_RATE: "The recognizer heard something else",
    Reason.TOO_SHORT: "Too short",
    Reason.TOO_LONG: "Too long",
    Reason.NO_PAUSE: "No pause to cut at",
    Reason.TOO_FAST: "More text than can be spoken in that time",
    Reason.TOO_SLOW: "Less text than that much speech has",
    Reason.NOISY: "Noise",
    Reason.CLIPPING: "Clipping",
    Reason.DIGITS: "Digits that could not be written as words",
    Reason.MARKUP: "Characters that a manifest cannot represent",
    Reason.BORDER: "Next to the validation set",
    Reason.DROPPED: "Dropped by hand",
    Reason.UNUSABLE_RECORDING: "Recordings that could not be used",
}


@dataclass(frozen=True, slots=True)
class Scores:
    """Measurements of a clip.

    Attributes:
        alignment: How well the speech matches the text according to the aligner, 0 to 1. None if a person changed the
            clip since.
        error_rate: Character error rate of a recognizer's text, 0 or more. None without a recognizer.
        characters_per_second: Letters of the text per second of speech.
        signal_to_noise_db: Level of the speech relative to the pauses, in dB. None if no pause is long enough.
        silence_before_s: Seconds before the first speech.
        silence_after_s: Seconds after the last speech.
        clipped_samples: Number of samples that are clipped (see `data.audio.count_clipped`).
    """

    alignment: float | None
    error_rate: float | None
    characters_per_second: float
    signal_to_noise_db: float | None
    silence_before_s: float
    silence_after_s: float
    clipped_samples: int

    @property
    def score(self) -> float:
        """What `--min-score` compares with, 0 to 1: the alignment score or, if it is lower, 1 - error rate.

        1 if neither is known, because only clips that a person changed have no alignment score.
        """
        alignment = 1.0 if self.alignment is None else self.alignment
        return max(0.0, min(alignment, 1.0 - (self.error_rate or 0.0)))

    @classmethod
    def from_json(cls, values: object, where: str) -> Scores:
        """Return the scores that `dataclasses.asdict` returned as `values`.

        Args:
            values: The parsed JSON.
            where: File and line, for the message.

        Raises:
            DataError: A value is missing or has a different type. The message names `where`.
        """
        read = _Reader(values, where)
        return cls(
            read.optional_number("alignment"),
            read.optional_number("error_rate"),
            read.number("characters_per_second"),
            read.optional_number("signal_to_noise_db"),
            read.number("silence_before_s"),
            read.number("silence_after_s"),
            read.get("clipped_samples", int),
        )


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of a recording with its text, which becomes a row of a manifest unless it is set aside.

    Attributes:
        id: RECORDING_ID-SSSSSSSS: the recording's id and the clip's first start in ms. Edits do not change it.
        recording_id: Id of the recording.
        recording: Path of the recording, as the user passed it.
        text: Text as in the manifest.
        start_s: Start in the recording, in seconds.
        end_s: End in the recording, in seconds.
        speaker_name: Name of the speaker.
        language: Language code.
        scores: Measurements.
        audio_file: Path of the WAV file, relative to the output folder. Empty until the file is written.
        split: "train" or "val". None if the clip is set aside, or before the split.
        rejected: Why the clip is set aside; None if it is accepted.
        detail: The reason in a sentence, with numbers.
        edited: Whether a person changed, accepted or dropped the clip.
    """

    id: str
    recording_id: str
    recording: str
    text: str
    start_s: float
    end_s: float
    speaker_name: str
    language: str
    scores: Scores
    audio_file: str = ""
    split: Literal["train", "val"] | None = None
    rejected: Reason | None = None
    detail: str = ""
    edited: bool = False

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    def to_json(self) -> dict[str, object]:
        """Return the clip as an object of `clips.jsonl`."""
        return {
            "clip": self.id,
            "recording": self.recording,
            "recording_id": self.recording_id,
            "audio_file": self.audio_file,
            "text": self.text,
            "start": self.start_s,
            "end": self.end_s,
            "speaker_name": self.speaker_name,
            "language": self.language,
            "split": self.split,
            "rejected": None if self.rejected is None else self.rejected.value,
            "detail": self.detail,
            "edited": self.edited,
            "score": self.scores.score,
            "scores": asdict(self.scores),
        }

    @classmethod
    def from_json(cls, values: object, where: str) -> Clip:
        """Return the clip that `to_json` returned as `values`.

        Args:
            values: The parsed JSON.
            where: File and line, for the message.

        Raises:
            DataError: A value is missing or has a different type. The message names `where`.
        """
        read = _Reader(values, where)
        split = read.optional("split", str)
        if split not in ("train", "val", None):
            raise read.error("split", "train, val or null")
        return cls(
            id=read.get("clip", str),
            recording_id=read.get("recording_id", str),
            recording=read.get("recording", str),
            text=read.get("text", str),
            start_s=read.number("start"),
            end_s=read.number("end"),
            speaker_name=read.get("speaker_name", str),
            language=read.get("language", str),
            scores=Scores.from_json(read.get("scores", dict), where),
            audio_file=read.get("audio_file", str),
            split=cast('Literal["train", "val"] | None', split),
            rejected=None if read.optional("rejected", str) is None else read.reason("rejected"),
            detail=read.get("detail", str),
            edited=read.get("edited", bool),
        )


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """What is known of a recording when its clips are written.

    Attributes:
        id: The recording's id.
        recording: Path of the recording, as the user passed it.
        digest: Digest of the file's content, as hexadecimal digits.
        duration_s: Length in seconds.
        speech_s: Seconds of speech.
        audio_key: What the samples of a clip depend on besides its start and end, such as the gain and sample rate. A
            different key means that the clips are written again.
    """

    id: str
    recording: str
    digest: str
    duration_s: float
    speech_s: float
    audio_key: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Text without speech, or speech without text, which therefore became no clip.

    Attributes:
        recording_id: Id of the recording.
        recording: Path of the recording, as the user passed it.
        start_s: Start in the recording, in seconds; None if it is unknown.
        end_s: End in the recording, in seconds; None if it is unknown.
        text: The text; empty if there is none.
        reason: Why it is set aside.
        detail: The reason in a sentence, with numbers.
    """

    recording_id: str
    recording: str
    start_s: float | None
    end_s: float | None
    text: str
    reason: Reason
    detail: str

    def to_json(self) -> dict[str, object]:
        """Return the item as a JSON object, with the names of the attributes as keys."""
        return {**asdict(self), "reason": self.reason.value}

    @classmethod
    def from_json(cls, values: object, where: str) -> SetAside:
        """Return the item that `to_json` returned as `values`.

        Args:
            values: The parsed JSON.
            where: File and line, for the message.

        Raises:
            DataError: A value is missing or has a different type. The message names `where`.
        """
        read = _Reader(values, where)
        return cls(
            read.get("recording_id", str),
            read.get("recording", str),
            read.optional_number("start_s"),
            read.optional_number("end_s"),
            read.get("text", str),
            read.reason("reason"),
            read.get("detail", str),
        )


def read_clips(path: Path) -> list[Clip]:
    """Read `clips.jsonl`.

    Raises:
        DataError: The file is missing, unreadable or damaged. The message names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Run make-dataset, which writes it.") from error
    return [Clip.from_json(parse_line(line, where), where) for where, line in _numbered(path, lines)]


def parse_line(line: bytes, where: str) -> object:
    """Parse a line of a JSON lines file.

    Args:
        line: The line.
        where: File and line, for the message.

    Raises:
        DataError: The line is not JSON in UTF-8. The message names `where`.
    """
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON in UTF-8 ({error}). Correct or delete this line.") from error


def _numbered(path: Path, lines: list[bytes]) -> list[tuple[str, bytes]]:
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


class _Reader:
    """Reads the values of a JSON object and checks their types."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{where}: Expected a JSON object, got {type(values).__name__}. Run make-dataset again.")
        self._values, self._where = cast("Mapping[str, object]", values), where

    def error(self, key: str, expected: str) -> DataError:
        found = repr(self._values[key])[:80] if key in self._values else "nothing"
        return DataError(f"{self._where}: Expected {key} to be {expected}, got {found}. Run make-dataset again.")

    def get(self, key: str, kind: type[T]) -> T:
        value = self._values.get(key)
        # JSON's true and false are integers to Python.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, kind.__name__)
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        return None if key in self._values and self._values[key] is None else self.get(key, kind)

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(key, "a finite number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if key in self._values and self._values[key] is None else self.number(key)

    def reason(self, key: str) -> Reason:
        try:
            return Reason(self.get(key, str))
        except ValueError as error:
            raise self.error(key, f"one of {', '.join(Reason)}") from error
