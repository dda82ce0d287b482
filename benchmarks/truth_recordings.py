"""Join short recordings with known texts to long recordings, and write texts for them as people have them.

benchmarks/long_recordings.py uses this. A recording's folder has the recording, `truth.jsonl` (start, end, text and the
pauses inside of each utterance), and for each variant of its text a file and what of it is not spoken as it stands.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]
Span = tuple[float, float]

#: There is no speech where the energy is this far below the loud parts or, in noisy recordings, no further above the
#: quietest parts, but never where it is nearer to the loud parts than the third number.
_QUIET_DB, _NOISE_DB_ABOVE, _LEAST_QUIET_DB = 25.0, 4.0, 12.0
#: The shortest pause inside an utterance. Closures of plosives are shorter.
_PAUSE_S = 0.08
_HOP_S = 0.01
_PAUSES_S = (0.3, 3.0)
_MUSIC_EVERY_S, _MUSIC_S = 240.0, (6.0, 20.0)
#: Length of a stretch of music, or of none, that makes a recording of too few clips longer.
_INTERLUDE_S = (6.0, 60.0)
#: Stretches of about a minute have noise at one of these levels below the speech, or none.
_NOISE_S, _NOISE_DB = 60.0, (None, None, 20.0, 30.0)
#: Number of clips from which the level of the speech is measured.
_MEASURED_CLIPS = 50
#: Level of the quiet hiss under everything: a recording has no digital silence.
_HISS = 3e-4
#: Subtitles: constant offset, largest deviation from it.
_OFFSET_S, _DEVIATION_S = 2.0, 1.5


@dataclass(frozen=True)
class Utterance:
    """What is spoken in one stretch of a long recording.

    Attributes:
        start_s, end_s: The speech in seconds of the long recording, without the silence around it.
        text: What is spoken, with punctuation.
        quiet: Pauses inside.
    """

    start_s: float
    end_s: float
    text: str
    quiet: tuple[Span, ...] = ()


class Fate(str, Enum):
    """What happened to an utterance in a text."""

    AS_SPOKEN = "as spoken"
    MISSING = "missing"
    REPLACED = "replaced"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class TextPart:
    """A part of a text.

    Attributes:
        text: The part.
        utterance: The index of the utterance that it belongs to; None for an added sentence.
        fate: AS_SPOKEN if the recording has it where the text has it.
    """

    text: str
    utterance: int | None
    fate: Fate


@dataclass(frozen=True)
class TextTruth:
    """What is known about a text: its parts in order, and what became of each utterance."""

    parts: tuple[TextPart, ...]
    fates: tuple[Fate, ...]


def measure_pauses(samples: Samples, rate: int) -> tuple[Span, tuple[Span, ...]] | None:
    """Return where speech starts and ends in a short recording, in seconds, and the pauses inside.

    Returns None for silence.
    """
    hop = round(rate * _HOP_S)
    frames = len(samples) // hop
    if frames < 10:
        return None
    power = np.square(samples[: frames * hop].astype(np.float64)).reshape(frames, hop).mean(1)
    level = 10 * np.log10(np.convolve(power, np.ones(3) / 3, "same") + 1e-12)
    loud = float(np.quantile(level, 0.95))
    noise = float(np.quantile(level, 0.05))
    quiet = min(max(loud - _QUIET_DB, noise + _NOISE_DB_ABOVE), loud - _LEAST_QUIET_DB)
    (spoken,) = np.nonzero(level > quiet)
    if loud < -60 or not len(spoken):
        return None
    edges = np.flatnonzero(np.diff(spoken) > round(_PAUSE_S / _HOP_S))
    pauses = tuple((float(spoken[edge] + 1) * _HOP_S, float(spoken[edge + 1]) * _HOP_S) for edge in edges)
    return (float(spoken[0]) * _HOP_S, float(spoken[-1] + 1) * _HOP_S), pauses


def is_usable(text: str) -> bool:
    """Return whether a text says in letters what is spoken; numbers may be read in several ways."""
    return bool(re.search(r"\w", text)) and not re.search(r"[\d\[\](){}<>*/%&+=]", text)


def make_recording(
    clips: Sequence[tuple[Path, str]],
    music: Sequence[Path],
    file: Path,
    rate: int,
    minutes: float,
    generator: np.random.Generator,
) -> list[Utterance]:
    """Write clips in random order until a recording is long enough, and return what is spoken in it.

    There are pauses between the clips, and music now and then. If there are too few clips, minutes without speech make
    up for them, in stretches of 6 to 60 s, half of them with music.

    Args:
        clips: Recordings and their texts. Each is used once at most.
        music: Files to take music from.
        file: File to write, in the format that its name ends in.
        rate: Sample rate in Hz.
        minutes: Length at which the recording ends; infinite for all clips, however long they take.
        generator: Decides the order, the pauses and the noise.
    """
    utterances: list[Utterance] = []
    level = _speech_level(clips, rate)
    with soundfile.SoundFile(file, "w", samplerate=rate, channels=1) as output:
        writer = _Writer(output, level, generator)
        next_music = _MUSIC_EVERY_S
        for number, index in enumerate(generator.permutation(len(clips)), start=1):
            if writer.seconds > minutes * 60:
                break
            path, text = clips[index]
            samples = load_samples(path, rate)
            measured = measure_pauses(samples, rate)
            if measured is None:
                continue
            (start_s, end_s), pauses = measured
            begin = writer.seconds
            writer.write(samples)
            inside = tuple((begin + first, begin + last) for first, last in pauses)
            utterances.append(Utterance(begin + start_s, begin + end_s, text, inside))
            writer.pause(generator.uniform(*_PAUSES_S))
            if music and writer.seconds > next_music:
                writer.write(_some_music(music, rate, generator.uniform(*_MUSIC_S), generator))
                writer.pause(generator.uniform(*_PAUSES_S))
                next_music += _MUSIC_EVERY_S
            if math.isfinite(minutes) and writer.seconds + _INTERLUDE_S[1] / 2 < 60 * minutes * number / len(clips):
                length_s = generator.uniform(*_INTERLUDE_S)
                if music and generator.random() < 0.5:
                    writer.write(_some_music(music, rate, length_s, generator))
                else:
                    writer.pause(length_s)
                writer.pause(generator.uniform(*_PAUSES_S))
    return utterances


def _speech_level(clips: Sequence[tuple[Path, str]], rate: int) -> float:
    """Return the median, over some of the clips, of the root mean square of their speech."""
    levels = []
    for path, _ in clips[:: max(1, len(clips) // _MEASURED_CLIPS)]:
        samples = load_samples(path, rate)
        if measured := measure_pauses(samples, rate):
            start_s, end_s = measured[0]
            speech = samples[round(start_s * rate) : round(end_s * rate)]
            levels.append(float(np.sqrt(np.square(speech).mean())))
    return float(np.median(levels)) if levels else 0.0


class _Writer:
    """Writes parts of a recording one after the other, with hiss and changing noise."""

    def __init__(self, output: soundfile.SoundFile, speech_level: float, generator: np.random.Generator) -> None:
        self._output = output
        self._speech_level = speech_level
        self._generator = generator
        self._written = 0
        self._noise, self._noise_until = 0.0, 0.0

    @property
    def seconds(self) -> float:
        return self._written / self._output.samplerate

    def write(self, samples: Samples) -> None:
        if self.seconds >= self._noise_until:
            level = _NOISE_DB[self._generator.integers(len(_NOISE_DB))]
            self._noise = 0.0 if level is None else self._speech_level * 10 ** (-level / 20)
            self._noise_until = self.seconds + _NOISE_S
        noise = self._generator.standard_normal(len(samples) + 3, dtype=np.float32)
        # The mean of four samples is duller than white noise, as the noise of rooms and fans is.
        dull = (noise[3:] + noise[2:-1] + noise[1:-2] + noise[:-3]) / 2
        mixed = samples + self._noise * dull + _HISS * noise[3:]
        self._output.write(np.clip(mixed, -1, 1).astype(np.float32))
        self._written += len(samples)

    def pause(self, duration_s: float) -> None:
        self.write(np.zeros(round(duration_s * self._output.samplerate), dtype=np.float32))


def load_samples(path: Path, rate: int) -> Samples:
    """Return a recording as mono audio at a sample rate, float32 [samples]."""
    samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(1), own_rate, rate)


def _some_music(files: Sequence[Path], rate: int, duration_s: float, generator: np.random.Generator) -> Samples:
    """Return a stretch of one of the files, which becomes louder and softer at its ends, float32 [samples]."""
    piece = load_samples(files[generator.integers(len(files))], rate)
    length = round(rate * duration_s)
    first = int(generator.integers(max(1, len(piece) - length)))
    return _faded(piece[first : first + length], rate)


def _faded(samples: Samples, rate: int) -> Samples:
    ramp = np.minimum(1, np.arange(len(samples), dtype=np.float32) / (rate * 0.5))
    return samples * ramp * ramp[::-1]


def as_spoken(utterances: Sequence[Utterance]) -> TextTruth:
    """Return the truth about a text that has every utterance in order."""
    parts = tuple(TextPart(one.text, index, Fate.AS_SPOKEN) for index, one in enumerate(utterances))
    return TextTruth(parts, (Fate.AS_SPOKEN,) * len(parts))


def damaged(utterances: Sequence[Utterance], spare: Sequence[str], generator: np.random.Generator) -> TextTruth:
    """Return a text with 10 % of the utterances missing, 10 % added, 5 % replaced, and 5 % swapped with a neighbor.

    Args:
        utterances: What is spoken.
        spare: Sentences of the same language that are not spoken; they repeat if there are too few.
        generator: Decides which.
    """
    count = len(utterances)
    fates = [Fate.AS_SPOKEN] * count
    order = iter(generator.permutation(count))
    parts = [TextPart(one.text, index, Fate.AS_SPOKEN) for index, one in enumerate(utterances)]
    sentences = itertools.cycle(generator.permutation(len(spare)).tolist())
    for fate, share in ((Fate.MISSING, 0.10), (Fate.REPLACED, 0.05)):
        for _ in range(round(share * count)):
            fates[next(order)] = fate
    for _ in range(round(0.025 * count)):
        first = next(index for index in order if fates[index : index + 2] == [Fate.AS_SPOKEN] * 2)
        fates[first] = fates[first + 1] = Fate.SWAPPED
        parts[first], parts[first + 1] = parts[first + 1], parts[first]
    added = set(generator.permutation(count)[: round(0.10 * count)].tolist())
    result: list[TextPart] = []
    for position, part in enumerate(parts):
        assert part.utterance is not None
        fate = fates[part.utterance]
        if fate is Fate.REPLACED:
            result.append(TextPart(spare[next(sentences)], part.utterance, fate))
        elif fate is not Fate.MISSING:
            result.append(TextPart(part.text, part.utterance, fate))
        if position in added:
            result.append(TextPart(spare[next(sentences)], None, Fate.REPLACED))
    return TextTruth(tuple(result), tuple(fates))


def write_transcript(truth: TextTruth, file: Path, generator: np.random.Generator) -> None:
    """Write a text as paragraphs of 5 to 12 sentences."""
    texts = [part.text for part in truth.parts]
    paragraphs = []
    while texts:
        length = int(generator.integers(5, 13))
        paragraphs.append(" ".join(texts[:length]))
        del texts[:length]
    file.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


def write_subtitles(utterances: Sequence[Utterance], file: Path, generator: np.random.Generator) -> None:
    """Write subtitles 2 s late, and up to 1.5 s more or less; long cues are split, and short neighbors share a cue."""
    cues = [(start_s, end_s, text) for start_s, end_s, text in _cues(utterances, generator)]
    deviations = _DEVIATION_S * (
        0.5 * np.repeat(generator.uniform(-1, 1, len(cues) // 10 + 1), 10)[: len(cues)]
        + 0.5 * generator.uniform(-1, 1, len(cues))
    )
    starts = sorted(
        max(0.0, start_s + _OFFSET_S + float(late)) for (start_s, _, _), late in zip(cues, deviations, strict=True)
    )
    lines = []
    for number, (start, (start_s, end_s, text)) in enumerate(zip(starts, cues, strict=True)):
        end = start + (end_s - start_s) * float(generator.uniform(0.9, 1.3))
        if number + 1 < len(starts):
            end = max(start + 0.001, min(end, starts[number + 1]))
        lines.append(f"{number + 1}\n{_srt_time(start)} --> {_srt_time(end)}\n{text}\n")
    file.write_text("\n".join(lines), encoding="utf-8")


def _cues(utterances: Sequence[Utterance], generator: np.random.Generator) -> Iterator[tuple[float, float, str]]:
    waiting: Utterance | None = None
    for utterance in utterances:
        if waiting is not None:
            if utterance.start_s - waiting.end_s < 1 and len(waiting.text) + len(utterance.text) < 70:
                yield waiting.start_s, utterance.end_s, f"{waiting.text}\n{utterance.text}"
                waiting = None
                continue
            yield waiting.start_s, waiting.end_s, waiting.text
            waiting = None
        words = utterance.text.split()
        if len(utterance.text) > 60 and len(words) > 4:
            half = len(words) // 2
            middle = utterance.start_s + (utterance.end_s - utterance.start_s) * half / len(words)
            yield utterance.start_s, middle, " ".join(words[:half])
            yield middle, utterance.end_s, " ".join(words[half:])
        elif generator.random() < 0.4:
            waiting = utterance
        else:
            yield utterance.start_s, utterance.end_s, utterance.text
    if waiting is not None:
        yield waiting.start_s, waiting.end_s, waiting.text


def _srt_time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:"
        f"{milliseconds // 1000 % 60:02},{milliseconds % 1000:03}"
    )


def write_utterances(utterances: Sequence[Utterance], file: Path) -> None:
    """Write utterances as JSON lines."""
    lines = [json.dumps(asdict(utterance), ensure_ascii=False) for utterance in utterances]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_utterances(file: Path) -> list[Utterance]:
    """Read what `write_utterances` wrote."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Utterance(**{**row, "quiet": tuple((start, end) for start, end in row["quiet"])}) for row in rows]


def write_text_truth(truth: TextTruth, file: Path) -> None:
    """Write the truth about a text as JSON."""
    file.write_text(json.dumps(asdict(truth), ensure_ascii=False, indent=1), encoding="utf-8")


def read_text_truth(file: Path) -> TextTruth:
    """Read what `write_text_truth` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    parts = tuple(TextPart(part["text"], part["utterance"], Fate(part["fate"])) for part in content["parts"])
    return TextTruth(parts, tuple(map(Fate, content["fates"])))
