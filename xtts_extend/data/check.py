"""Reads every recording and every text once and says what cannot be used, what deserves a look, and how much there is.

What a recording's file says is cached. It does not depend on the model or the text: these are judged anew each time,
which is cheap.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data.audio import (
    LITTLE_SOUND,
    SILENCE_LEVEL,
    Recording,
    can_resample,
    describe_sound,
    out_of_range,
    resampling_problem,
)
from xtts_extend.data.dataset import MIN_DURATION_S
from xtts_extend.data.paths import describe_search
from xtts_extend.data.recordings import read_recordings
from xtts_extend.data.sample import Sample
from xtts_extend.data.text_checks import read_text, speaking_rates, text_warnings
from xtts_extend.errors import DataError
from xtts_extend.progress import with_progress
from xtts_extend.text.tokenizer import require_cleanable

PROBLEMS = {
    "missing": "no such file",
    "unreadable": "no audio file, damaged, or truncated",
    "not_finite": "NaN or infinite samples",
    "out_of_range": "samples far beyond full scale",
    "silent": "no sound",
    "too_short": f"shorter than {MIN_DURATION_S} s",
    "too_long_audio": "longer than the model takes",
    "empty_text": "no text",
    "unknown_tokens": "characters that the vocabulary does not have",
    "too_long_text": "more tokens than the model takes",
    "text_error": "the language's cleaner fails on the text",
}
# What deserves a look, and behind it what is merely converted.
WARNINGS = {
    "speaking_rate": "more or less text than the recording has time for",
    "mostly_silence": "little of the recording is sound: the speech may be missing",
    "clipped": "the recording was too loud and is cut off",
    "mojibake": "characters in the text that a wrong encoding leaves",
    "phonemes": "phonetic letters (IPA) where the text should be",
    "markup": "tags, entities or addresses in the text",
    "digits": "numbers that stay digits: no words are known for them",
    "duplicate_audio": "the same recording again",
    "duplicate_text": "the same text again",
    "sample_rate": "not the model's sample rate: will be resampled",
    "mixed_sample_rates": "recordings of several sample rates",
    "channels": "not mono: will be averaged",
}
CONVERTED = ("sample_rate", "mixed_sample_rates", "channels")
# Decoders of lossy files overshoot by a sample here and there; that is no fault of the recording.
CLIPPED_SHARE = 1e-4


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
    def unusable_share(self) -> float:
        """Share of the samples that cannot be used, 0 to 1."""
        return (self.total - len(self.usable)) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Counts (`total`, `usable`, and per kind `problems` and `warnings`), hours, and all the entries."""
        return {
            "total": self.total,
            "usable": len(self.usable),
            "unusable_share": self.unusable_share,
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
                What is merely converted is one line, and last.
        """
        hours = ", ".join(f"{language} {hours:.2f} h" for language, hours in self.hours.items())
        lines = [f"{len(self.usable)} of {self.total} samples are usable ({hours or 'nothing'})"]
        converted = {kind: entries for kind, entries in self.warnings.items() if kind in CONVERTED}
        warnings = {kind: entries for kind, entries in self.warnings.items() if kind not in CONVERTED}
        for title, kinds, found in (("unusable", PROBLEMS, self.problems), ("warning", WARNINGS, warnings)):
            shown = names if title == "unusable" else min(10, names or 10)
            for kind, entries in found.items():
                if kind == "missing" and len(entries) == self.total:
                    first = entries[0]
                    tried = describe_search(first["manifest_audio_file"], first["manifest"] or "")
                    lines.append(f"unusable: missing: every one of {self.total} recordings: {tried}")
                    continue
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
        if converted:
            counts = (f"{kind}: {len(entries)} ({WARNINGS[kind]})" for kind, entries in converted.items())
            lines.append(f"converted when read: {', '.join(counts)}")
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
    for language in sorted({sample.language for sample in samples}):
        require_cleanable(tokenizer, language)
    recordings = read_recordings([sample.audio_file for sample in samples if sample.encoded is None], cache, progress)

    usable: list[Sample] = []
    recorded: list[Sample] = []
    used: list[Recording] = []
    problems: dict[str, list[dict[str, Any]]] = {kind: [] for kind in PROBLEMS}
    for sample in with_progress(samples, len(samples), "texts", progress):
        tokens, text_problem = read_text(sample, tokenizer, limits.max_text_length)
        recording = None
        if sample.encoded is not None:
            # its recording was read when it was encoded
            found = _length_problems(sample.encoded.wav_length, limits) | text_problem
        else:
            recording = recordings[sample.audio_file]
            found = _audio_problems(sample, recording, limits) | text_problem
        for kind, detail in found.items():
            problems[kind].append(_entry(sample, **detail))
        if found:
            continue
        if not isinstance(recording, Recording):
            usable.append(replace(sample, text_tokens=tokens))
            continue
        duration_s = recording.frames / recording.sample_rate
        usable.append(replace(sample, text_tokens=tokens, duration_s=duration_s, audio_digest=recording.digest))
        recorded.append(usable[-1])
        used.append(recording)
    seconds: dict[str, float] = defaultdict(float)
    for sample in usable:
        seconds[sample.language] += sample.duration_s
    return DataReport(
        total=len(samples),
        usable=usable,
        problems={kind: entries for kind, entries in problems.items() if entries},
        warnings=_warnings(recorded, used, tokenizer, limits),
        hours={language: seconds[language] / 3600 for language in sorted(seconds)},
    )


def _entry(sample: Sample, detail: str, **more: Any) -> dict[str, Any]:
    keys = ("manifest_audio_file", "manifest", "line", "language")
    return {key: getattr(sample, key) for key in keys} | {"detail": detail} | more


def _audio_problems(sample: Sample, recording: Recording | str | None, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Kinds and details of what makes a recording unusable."""
    if recording is None:
        return {"missing": {"detail": f"no file {sample.audio_file!r}"}}
    if isinstance(recording, str):
        return {"unreadable": {"detail": recording}}
    if not can_resample(recording.sample_rate, limits.sample_rate):
        return {"unreadable": {"detail": resampling_problem(recording.sample_rate, limits.sample_rate)}}
    # As long as the resampler makes it, rounded up.
    found = _length_problems(-(-recording.frames * limits.sample_rate // recording.sample_rate), limits)
    if not recording.finite:
        found["not_finite"] = {"detail": PROBLEMS["not_finite"]}
    elif recording.out_of_range:
        found["out_of_range"] = {"detail": out_of_range(recording.peak, recording.level)}
    elif recording.frames and recording.level < SILENCE_LEVEL:
        found["silent"] = {"detail": f"its samples vary by ±{recording.level:.6f} of full scale"}
    return found


def _length_problems(length: int, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Kinds and details of what is wrong with a length in samples."""
    found = {}
    duration = f"{length / limits.sample_rate:.2f} s"
    if length < MIN_DURATION_S * limits.sample_rate:
        # one of 0.499 s does not read as 0.50
        found["too_short"] = {"detail": f"{length / limits.sample_rate:.3f} s"}
    if length > limits.max_wav_length:
        longest = f"{limits.max_wav_length / limits.sample_rate:.2f} s"
        found["too_long_audio"] = {"detail": f"{duration}; the model takes {longest}"}
    return found


def _warnings(
    samples: Sequence[Sample], recordings: Sequence[Recording], tokenizer: VoiceBpeTokenizer, limits: DataLimits
) -> dict[str, list[dict[str, Any]]]:
    """Entries of the usable samples, by kind."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WARNINGS}
    rates: dict[int, list[Sample]] = defaultdict(list)
    first: dict[tuple[str, ...], Sample] = {}
    for sample, detail in speaking_rates(samples):
        found["speaking_rate"].append(_entry(sample, detail))
    for sample, recording in zip(samples, recordings, strict=True):
        rates[recording.sample_rate].append(sample)
        for kind, detail in text_warnings(sample, tokenizer):
            found[kind].append(_entry(sample, detail))
        if recording.sound < LITTLE_SOUND:
            found["mostly_silence"].append(_entry(sample, describe_sound(recording.sound)))
        if recording.clipped > CLIPPED_SHARE * recording.frames:
            found["clipped"].append(_entry(sample, f"{recording.clipped} of {recording.frames} samples"))
        if recording.sample_rate != limits.sample_rate:
            detail = f"{recording.sample_rate} Hz; the model has {limits.sample_rate} Hz"
            found["sample_rate"].append(_entry(sample, detail))
        if recording.channels != 1:
            found["channels"].append(_entry(sample, f"{recording.channels} channels"))
        text_key = ("duplicate_text", sample.language, sample.text.strip())
        for key in (("duplicate_audio", recording.digest), text_key):
            earlier = first.setdefault(key, sample)
            if earlier is not sample:
                manifest = "" if earlier.manifest == sample.manifest else f" of {earlier.manifest}"
                detail = f"the same as {earlier.manifest_audio_file}{manifest}"
                if earlier.audio_file == sample.audio_file and earlier.text != sample.text:
                    detail += f", with another text: {earlier.text[:40]!r} and {sample.text[:40]!r}"
                found[key[0]].append(_entry(sample, detail))
    if len(rates) > 1:
        for rate, members in sorted(rates.items()):
            detail = f"first of {len(members)} with {rate} Hz"
            found["mixed_sample_rates"].append(_entry(members[0], detail))
    return {kind: entries for kind, entries in found.items() if entries}
