"""Reads every recording and every text once and says what cannot be used, what deserves a look, and how much there is.

What a recording's file says is cached by its path, size and time. It does not depend on the model or the text: these
are judged anew each time, which is cheap.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data.audio import Recording, measure_recording
from xtts_extend.data.dataset import MIN_DURATION_S, STOP_ID, UNKNOWN_ID
from xtts_extend.data.manifest import Sample
from xtts_extend.errors import DataError, MachineError
from xtts_extend.files import atomic_write
from xtts_extend.progress import with_progress
from xtts_extend.text.tokenizer import require_cleanable

logger = logging.getLogger(__name__)
T = TypeVar("T")

PROBLEMS = {
    "missing": "no such file",
    "unreadable": "not a sound wav, flac, ogg or mp3 file",
    "not_finite": "NaN or infinite samples",
    "silent": "no sound",
    "too_short": f"shorter than {MIN_DURATION_S} s",
    "too_long_audio": "longer than the model takes",
    "empty_text": "no text",
    "unknown_tokens": "characters that the vocabulary does not have",
    "too_long_text": "more tokens than the model takes",
    "text_error": "the language's cleaner fails on the text",
}
WARNINGS = {
    "clipped": "the recording was too loud and is cut off",
    "sample_rate": "not the model's sample rate: will be resampled",
    "mixed_sample_rates": "recordings of several sample rates",
    "channels": "not mono: will be averaged",
    "duplicate_audio": "the same recording again",
    "duplicate_text": "the same text again",
}
# Half the range between the lowest and the highest sample, under which nobody hears speech: -60 dB of full scale.
SILENCE_LEVEL = 0.001
# What the cleaners of the languages (num2words, mostly) raise for some texts.
CLEANER_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
_CHUNK_FILES = 1024
#: Begins every cache file; a file that begins otherwise is not ours to overwrite.
_CACHE_NAME = b"xtts_extend recordings"


@dataclass(frozen=True)
class DataLimits:
    """What the model takes: its rate in Hz, the longest recording in samples at it, the longest text in tokens."""

    sample_rate: int
    max_wav_length: int
    max_text_length: int


@dataclass(frozen=True)
class DataReport:
    """What `check_samples` found.

    `usable` are the samples to train on, in order, each with `duration_s`, `text_tokens` (their number) and, of its
    recording, `audio_digest` added.
    `problems` and `warnings` map the kinds that occurred to their entries: `manifest_audio_file`, `manifest`, `line`,
    `language`, `detail` and, for unknown tokens, `characters`. A sample with several problems is in several lists;
    only usable samples have warnings. `hours` are those of the usable samples, per language.
    """

    total: int
    usable: list[Sample]
    problems: dict[str, list[dict[str, Any]]]
    warnings: dict[str, list[dict[str, Any]]]
    hours: dict[str, float]

    @property
    def bad_share(self) -> float:
        """Share of the samples that cannot be used, 0 to 1."""
        return (self.total - len(self.usable)) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Counts (`total`, `usable`, and per kind `problems` and `warnings`), hours, and all the entries."""
        return {
            "total": self.total,
            "usable": len(self.usable),
            "bad_share": self.bad_share,
            "hours": sum(self.hours.values()),
            "hours_per_language": self.hours,
            "problems": {kind: len(entries) for kind, entries in self.problems.items()},
            "warnings": {kind: len(entries) for kind, entries in self.warnings.items()},
            "problem_entries": self.problems,
            "warning_entries": self.warnings,
        }

    def summary(self, names: int | None = 10, *, name_warnings: bool = True) -> str:
        """The report for a terminal.

        Args:
            names: up to this many names of unusable samples per kind; None for all. Of warnings at most ten.
            name_warnings: name samples with warnings too; otherwise there is one line per kind, as in a training log.
        """
        hours = ", ".join(f"{language} {hours:.2f} h" for language, hours in self.hours.items())
        lines = [f"{len(self.usable)} of {self.total} samples are usable ({hours or 'nothing'})"]
        for title, kinds, found in (("unusable", PROBLEMS, self.problems), ("warning", WARNINGS, self.warnings)):
            shown = names if title == "unusable" else min(10, names or 10)
            for kind, entries in found.items():
                if title == "warning" and not name_warnings:
                    samples = "1 sample" if len(entries) == 1 else f"{len(entries)} samples"
                    lines.append(f"warning: {samples}: {kind} ({kinds[kind]}), see check-data")
                    continue
                lines.append(f"{title}: {kind}: {len(entries)} ({kinds[kind]})")
                characters = Counter(character for entry in entries for character in entry.get("characters", ()))
                if characters:
                    lines.append("    " + ", ".join(f"{name} in {count}" for name, count in characters.most_common(40)))
                for entry in entries[:shown]:
                    line = "" if entry["line"] is None else f" (line {entry['line']} of {entry['manifest']})"
                    lines.append(f"    {entry['manifest_audio_file']}{line}: {entry['detail']}")
                if shown is not None and len(entries) > shown:
                    every = "check-data" if title == "unusable" else "check-data --json"
                    lines.append(f"    and {len(entries) - shown} more ({every} names all)")
        return "\n".join(lines)

    __str__ = summary


def check_samples(
    samples: Sequence[Sample],
    tokenizer: VoiceBpeTokenizer,
    limits: DataLimits,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> DataReport:
    """Check samples; the order of the result does not depend on the threads that read.

    Args:
        samples: What `read_manifest` returns; they are not changed.
        tokenizer: Of the model, enabled for the languages of the samples.
        limits: Of the model.
        cache: File that remembers the recordings; written also when the check is interrupted.
        progress: Show a bar on a terminal, and a line every ten seconds where there is none (on stderr).

    Raises:
        DataError: There are no samples.
        LanguageError: A language has no tag in the vocabulary, or its cleaner cannot work here.
    """
    if not samples:
        raise DataError("no samples to check")
    for language in sorted({sample["language"] for sample in samples}):
        require_cleanable(tokenizer, language)
    recordings = _read_recordings(
        [sample["audio_file"] for sample in samples if "encoded" not in sample], cache, progress
    )

    usable: list[Sample] = []
    recorded: list[Sample] = []
    used: list[Recording] = []
    problems: dict[str, list[dict[str, Any]]] = {kind: [] for kind in PROBLEMS}
    for sample in with_progress(samples, len(samples), "texts", progress):
        tokens, text_problem = _read_text(sample, tokenizer, limits)
        if "encoded" in sample:
            # its recording was read when it was encoded
            found = _length_problems(sample["wav_length"], limits) | text_problem
            recording = None
        else:
            recording = recordings[sample["audio_file"]]
            found = _audio_problems(sample, recording, limits) | text_problem
        for kind, detail in found.items():
            problems[kind].append(_entry(sample, **detail))
        if found:
            continue
        usable.append(sample | {"text_tokens": tokens})
        if isinstance(recording, Recording):
            usable[-1]["duration_s"] = recording.frames / recording.sample_rate
            usable[-1]["audio_digest"] = recording.digest
            recorded.append(usable[-1])
            used.append(recording)
    seconds: dict[str, float] = defaultdict(float)
    for sample in usable:
        seconds[sample["language"]] += sample["duration_s"]
    return DataReport(
        total=len(samples),
        usable=usable,
        problems={kind: entries for kind, entries in problems.items() if entries},
        warnings=_warnings(recorded, used, limits),
        hours={language: seconds[language] / 3600 for language in sorted(seconds)},
    )


def _entry(sample: Sample, detail: str, **more: Any) -> dict[str, Any]:
    keys = ("manifest_audio_file", "manifest", "line", "language")
    return {key: sample.get(key) for key in keys} | {"detail": detail} | more


def _audio_problems(sample: Sample, recording: Recording | str | None, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Kinds and details of what makes a recording unusable."""
    if recording is None:
        return {"missing": {"detail": f"no file {sample['audio_file']!r}"}}
    if isinstance(recording, str):
        return {"unreadable": {"detail": recording}}
    # As long as the resampler makes it, rounded up.
    found = _length_problems(-(-recording.frames * limits.sample_rate // recording.sample_rate), limits)
    if not recording.finite:
        found["not_finite"] = {"detail": PROBLEMS["not_finite"]}
    elif recording.frames and recording.level < SILENCE_LEVEL:
        found["silent"] = {"detail": f"its samples vary by ±{recording.level:.6f} of full scale"}
    return found


def _length_problems(length: int, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Kinds and details of what is wrong with a length in samples."""
    found = {}
    duration = f"{length / limits.sample_rate:.2f} s"
    if length < MIN_DURATION_S * limits.sample_rate:
        found["too_short"] = {"detail": duration}
    if length > limits.max_wav_length:
        longest = f"{limits.max_wav_length / limits.sample_rate:.2f} s"
        found["too_long_audio"] = {"detail": f"{duration}; the model takes {longest}"}
    return found


def _read_text(
    sample: Sample, tokenizer: VoiceBpeTokenizer, limits: DataLimits
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Number of tokens, and kinds and details of what makes a text unusable."""
    text, language = sample["text"], sample["language"]
    if not text.strip():
        return 0, {"empty_text": {"detail": repr(text)}}
    try:
        ids = tokenizer.encode(text, language)
    except CLEANER_ERRORS as error:
        return 0, {"text_error": {"detail": f"{type(error).__name__} for {text[:80]!r}: {str(error)[:80]}"}}
    found: dict[str, dict[str, Any]] = {}
    if len(ids) <= 1:
        found["empty_text"] = {"detail": f"nothing but the language tag is left of {text!r} after cleaning"}
    if UNKNOWN_ID in ids or STOP_ID in ids:
        cleaned = tokenizer.preprocess_text(text, language.split("-")[0])
        encoding = tokenizer.tokenizer.encode(cleaned)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        pieces = {cleaned[start:end] for token, (start, end) in spans if token in (UNKNOWN_ID, STOP_ID)}
        characters = [_name(piece) for piece in sorted(pieces)]
        found["unknown_tokens"] = {"detail": f"{' '.join(characters)} in {cleaned!r}", "characters": characters}
    if len(ids) > limits.max_text_length:
        found["too_long_text"] = {"detail": f"{len(ids)} tokens; the model takes {limits.max_text_length}"}
    return len(ids), found


def _name(piece: str) -> str:
    """A character with its code point, which tells apart what looks alike; a special token as it is."""
    return f"{piece!r} (U+{ord(piece):04X})" if len(piece) == 1 else repr(piece)


def _warnings(
    samples: Sequence[Sample], recordings: Sequence[Recording], limits: DataLimits
) -> dict[str, list[dict[str, Any]]]:
    """Entries of the usable samples, by kind."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WARNINGS}
    rates: dict[int, list[Sample]] = defaultdict(list)
    first: dict[tuple[str, ...], Sample] = {}
    for sample, recording in zip(samples, recordings, strict=True):
        rates[recording.sample_rate].append(sample)
        if recording.clipped:
            found["clipped"].append(_entry(sample, f"{recording.clipped} of {recording.frames} samples"))
        if recording.sample_rate != limits.sample_rate:
            detail = f"{recording.sample_rate} Hz; the model has {limits.sample_rate} Hz"
            found["sample_rate"].append(_entry(sample, detail))
        if recording.channels != 1:
            found["channels"].append(_entry(sample, f"{recording.channels} channels"))
        text_key = ("duplicate_text", sample["language"], sample["text"].strip())
        for key in (("duplicate_audio", recording.digest), text_key):
            earlier = first.setdefault(key, sample)
            if earlier is not sample:
                found[key[0]].append(_entry(sample, f"the same as {earlier['manifest_audio_file']}"))
    if len(rates) > 1:
        for rate, members in sorted(rates.items()):
            detail = f"first of {len(members)} with {rate} Hz"
            found["mixed_sample_rates"].append(_entry(members[0], detail))
    return {kind: entries for kind, entries in found.items() if entries}


def _read_recordings(paths: Sequence[str], cache: Path | None, progress: bool) -> dict[str, Recording | str | None]:
    """Each path's recording, or what is wrong with the file, or None where there is none; read or from the cache."""
    known = {} if cache is None else _load_cache(cache)
    found: dict[str, Recording | str | None] = {}
    stamps: dict[str, tuple[int, int]] = {}
    for path in paths:
        stamp = _stamp(path)
        if stamp is None:
            found[path] = None
            continue
        stamps[path] = stamp
        if path in known and known[path][0] == stamp:
            found[path] = known[path][1]
    unread = [path for path in stamps if path not in found]

    def read(path: str) -> None:
        try:
            found[path] = measure_recording(path)
        except DataError as error:
            found[path] = str(error)

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # In chunks, so that a million files do not become a million waiting futures.
        chunks = (unread[start : start + _CHUNK_FILES] for start in range(0, len(unread), _CHUNK_FILES))
        done = (result for chunk in chunks for result in pool.map(read, chunk))
        deque(with_progress(done, len(unread), "recordings", progress), maxlen=0)
    finally:
        pool.shutdown(cancel_futures=True)
        if cache is not None and unread:
            for path in unread:
                if isinstance(recording := found.get(path), Recording):
                    known[path] = (stamps[path], recording)
            _save_cache(cache, known)
    return found


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of a file, which tell whether it has changed; None where there is no file."""
    try:
        status = os.stat(path)
    # A name with a null character is a ValueError.
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


Cache = dict[str, tuple[tuple[int, int], Recording]]


def _cache_header(body: bytes) -> bytes:
    """First line of a cache file: a digest tells a damaged one, or one of another version."""
    return _CACHE_NAME + f", version 2, {hashlib.sha256(body).hexdigest()}\n".encode()


def _load_cache(path: Path) -> Cache:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"the cache of recordings {path} cannot be read: {error}; name another file") from error
    header, _, body = content.partition(b"\n")
    if content and not header.startswith(_CACHE_NAME):
        raise DataError(f"{path} is no cache of recordings, and would be overwritten; name another file")
    if header + b"\n" != _cache_header(body):
        logger.warning("%s is damaged or of another version: all recordings are read again", path)
        return {}
    entries = (json.loads(line) for line in body.splitlines())
    return {entry["path"]: ((entry["size"], entry["mtime_ns"]), Recording(**entry["recording"])) for entry in entries}


def _save_cache(path: Path, known: Cache) -> None:
    entries = (
        {"path": name, "size": size, "mtime_ns": mtime_ns, "recording": asdict(recording)}
        for name, ((size, mtime_ns), recording) in known.items()
    )
    body = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    try:
        with atomic_write(path) as file:
            file.write(_cache_header(body) + body)
    except MachineError as error:
        logger.warning("The next check reads all recordings again: %s", error)
