"""Check every recording and text in a data set, and report unusable samples, warnings and hours of audio.

What was measured in recordings and what was found in texts are cached separately. The checks that depend on both, on
other samples or on the model's limits are cheap and run every time.
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
    describe_out_of_range,
    describe_sound,
    resampling_problem,
)
from xtts_extend.data.dataset import MIN_DURATION_S
from xtts_extend.data.garbage import garbage_collection_paused
from xtts_extend.data.paths import describe_search
from xtts_extend.data.processes import SINGLE_PROCESS, Processes
from xtts_extend.data.recordings import read_recordings
from xtts_extend.data.sample import Sample
from xtts_extend.data.text_cache import CheckedTexts
from xtts_extend.data.text_checks import TextCheck, speaking_rates
from xtts_extend.errors import DataError
from xtts_extend.progress import with_progress
from xtts_extend.text.tokenizer import require_cleanable

#: Kinds of problems that make a sample unusable.
PROBLEMS = {
    "missing": "no such file",
    "unreadable": "damaged, truncated, or not audio",
    "not_finite": "NaN or infinite samples",
    "out_of_range": "samples far beyond full scale",
    "silent": "no sound",
    "too_short": f"shorter than {MIN_DURATION_S} s",
    "too_long_audio": "longer than the model's limit",
    "empty_text": "no text",
    "unknown_tokens": "characters that are not in the vocabulary",
    "too_long_text": "more tokens than the model's limit",
    "text_error": "the language's cleaner failed on the text",
}
#: Kinds of warnings about usable samples.
WARNINGS = {
    "speaking_rate": "too much or too little text for the length of the recording",
    "mostly_silence": "mostly silence; the speech may be missing",
    "clipped": "recorded at too high a level, so the peaks are clipped",
    "mojibake": "characters that suggest that the wrong text encoding was used",
    "phonemes": "phonetic symbols (IPA) instead of ordinary text",
    "markup": "markup tags, entities, or web or email addresses in the text",
    "digits": "numbers left as digits, because no number words are available for the language",
    "duplicate_audio": "the same recording as an earlier sample",
    "duplicate_text": "the same text as an earlier sample",
    "sample_rate": "a sample rate other than the model's, so the audio is resampled",
    "mixed_sample_rates": "recordings with different sample rates",
    "channels": "more than one channel, so the channels are averaged to mono",
}
#: Kinds of warnings about recordings that are converted when they are read.
CONVERTED = ("sample_rate", "mixed_sample_rates", "channels")
#: Largest share of clipped samples that is accepted without a warning. Decoders for lossy formats produce a few.
CLIPPED_SHARE = 1e-4


@dataclass(frozen=True)
class DataLimits:
    """The limits that the model imposes on a sample.

    Attributes:
        sample_rate: Sample rate in Hz.
        max_wav_length: Maximum length of a recording, in samples at `sample_rate`.
        max_text_length: Maximum length of a text, in tokens.
    """

    sample_rate: int
    max_wav_length: int
    max_text_length: int


@dataclass(frozen=True)
class DataReport:
    """The result of `check_samples`.

    Attributes:
        total: Number of samples that were checked.
        usable: The usable samples, in their original order, with `duration_s`, `text_tokens` and `audio_digest` filled
            in.
        problems: Entries for unusable samples, keyed by kind (see `PROBLEMS`). An entry has `manifest_audio_file`,
            `manifest`, `line`, `language`, `detail` and, for unknown tokens, `characters`. A sample with several
            problems has several entries.
        warnings: Entries for usable samples, keyed by kind (see `WARNINGS`).
        hours: Hours of usable audio, keyed by language.
    """

    total: int
    usable: list[Sample]
    problems: dict[str, list[dict[str, Any]]]
    warnings: dict[str, list[dict[str, Any]]]
    hours: dict[str, float]

    @property
    def unusable_share(self) -> float:
        """Share of samples that are unusable, from 0 to 1."""
        return (self.total - len(self.usable)) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values: total counts, counts by kind, hours and all entries."""
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
        """Return the report as text.

        Args:
            names: Maximum number of unusable samples to list per kind, or None to list all. For each kind of warning,
                at most ten samples are listed.
            name_warnings: Whether to list the samples with warnings. Otherwise, each kind of warning is summarized in
                one line.
        """
        hours = ", ".join(f"{language} {hours:.2f} h" for language, hours in self.hours.items())
        lines = [f"{len(self.usable)} of {self.total} samples are usable ({hours or '0 h'})."]
        converted = {kind: entries for kind, entries in self.warnings.items() if kind in CONVERTED}
        warnings = {kind: entries for kind, entries in self.warnings.items() if kind not in CONVERTED}
        for title, kinds, by_kind in (("Unusable", PROBLEMS, self.problems), ("Warning", WARNINGS, warnings)):
            listed = names if title == "Unusable" else min(10, names or 10)
            for kind, entries in by_kind.items():
                if kind == "missing" and len(entries) == self.total:
                    first = entries[0]
                    search = describe_search(first["manifest_audio_file"], first["manifest"] or "")
                    lines.append(f"Unusable: missing: every recording is missing ({self.total} in total). {search}")
                    continue
                if title == "Warning" and not name_warnings:
                    samples = "1 sample" if len(entries) == 1 else f"{len(entries)} samples"
                    lines.append(f"Warning: {kind}: {samples} ({kinds[kind]}). Run check-data for details.")
                    continue
                lines.append(f"{title}: {kind}: {len(entries)} ({kinds[kind]})")
                characters = Counter(character for entry in entries for character in entry.get("characters", ()))
                if characters:
                    counts = (f"{name}: {count}" for name, count in characters.most_common(40))
                    lines.append(f"    number of samples with each character: {', '.join(counts)}")
                for entry in entries[:listed]:
                    line = "" if entry["line"] is None else f" (line {entry['line']} of {entry['manifest']})"
                    lines.append(f"    {entry['manifest_audio_file']}{line}: {entry['detail']}")
                if listed is not None and len(entries) > listed:
                    command = "check-data" if title == "Unusable" else "check-data --json"
                    lines.append(f"    and {len(entries) - listed} more ({command} lists all of them)")
        if converted:
            counts = (f"{kind}: {len(entries)} ({WARNINGS[kind]})" for kind, entries in converted.items())
            lines.append(f"Converted when read: {', '.join(counts)}.")
        return "\n".join(lines)

    __str__ = summary


def check_samples(
    samples: Sequence[Sample],
    tokenizer: VoiceBpeTokenizer,
    limits: DataLimits,
    *,
    cache: Path | None = None,
    progress: bool = True,
    processes: Processes = SINGLE_PROCESS,
) -> DataReport:
    """Check the recordings and texts of samples, and report the results in a deterministic order.

    Args:
        samples: Samples from `read_manifest`; they are not changed.
        tokenizer: The model's tokenizer from `load_tokenizer`.
        limits: The model's limits.
        cache: File that caches the measurements of the recordings. Files beside it cache what was found in texts. They
            are updated even if the check is interrupted.
        progress: Show progress on stderr: a progress bar on a terminal, otherwise a line every ten seconds.
        processes: The processes that call this function with the same arguments and divide the recordings. Each of them
            returns the same report.

    Raises:
        ConfigError: There are several processes but no cache.
        DataError: There are no samples, or the cache file cannot be read or is not a recordings cache.
        LanguageError: A language has no tag in the vocabulary, or its cleaner cannot run on this machine.

    >>> from xtts_extend.data.manifest import read_manifest
    >>> from xtts_extend.text.tokenizer import load_tokenizer
    >>> samples = read_manifest("train.csv", "am")
    >>> limits = DataLimits(sample_rate=22050, max_wav_length=255995, max_text_length=200)
    >>> report = check_samples(samples, load_tokenizer("am/vocab.json"), limits, progress=False)
    >>> len(report.usable) == len(samples), report.problems
    (True, {})
    """
    if not samples:
        raise DataError("There are no samples to check. Pass a manifest with at least one sample.")
    for language in sorted({sample.language for sample in samples}):
        require_cleanable(tokenizer, language)
    paths = [sample.audio_file for sample in samples if sample.encoded is None]
    recordings = read_recordings(paths, cache, progress, processes)
    progress = progress and processes.rank == 0

    usable: list[Sample] = []
    recorded: list[tuple[Sample, Recording, TextCheck]] = []
    problems: dict[str, list[dict[str, Any]]] = {kind: [] for kind in PROBLEMS}
    texts = CheckedTexts(tokenizer, cache)
    try:
        with garbage_collection_paused():
            for sample in with_progress(samples, len(samples), "texts", progress):
                text = texts.check(sample.text, sample.language)
                recording = None
                if sample.encoded is not None:
                    # The recording was checked when it was encoded.
                    sample_problems = _length_problems(sample.encoded.wav_length, limits)
                else:
                    recording = recordings[sample.audio_file]
                    sample_problems = _audio_problems(sample, recording, limits)
                sample_problems |= text.all_problems(limits.max_text_length)
                for kind, detail in sample_problems.items():
                    problems[kind].append(_entry(sample, **detail))
                if sample_problems:
                    continue
                if not isinstance(recording, Recording):
                    usable.append(replace(sample, text_tokens=text.tokens))
                    continue
                duration_s, digest = recording.frames / recording.sample_rate, recording.digest
                usable.append(replace(sample, text_tokens=text.tokens, duration_s=duration_s, audio_digest=digest))
                recorded.append((usable[-1], recording, text))
    finally:
        if processes.rank == 0:
            texts.save()
    seconds: dict[str, float] = defaultdict(float)
    for sample in usable:
        seconds[sample.language] += sample.duration_s
    return DataReport(
        total=len(samples),
        usable=usable,
        problems={kind: entries for kind, entries in problems.items() if entries},
        warnings=_warnings(recorded, limits),
        hours={language: seconds[language] / 3600 for language in sorted(seconds)},
    )


def _entry(sample: Sample, detail: str, **more: Any) -> dict[str, Any]:
    keys = ("manifest_audio_file", "manifest", "line", "language")
    return {key: getattr(sample, key) for key in keys} | {"detail": detail} | more


def _audio_problems(sample: Sample, recording: Recording | str | None, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Return the details of the problems that make a recording unusable, keyed by kind."""
    if recording is None:
        return {"missing": {"detail": f"no such file: {sample.audio_file!r}"}}
    if isinstance(recording, str):
        return {"unreadable": {"detail": recording}}
    if not can_resample(recording.sample_rate, limits.sample_rate):
        return {"unreadable": {"detail": resampling_problem(recording.sample_rate, limits.sample_rate)}}
    # The resampler rounds the length up.
    found = _length_problems(-(-recording.frames * limits.sample_rate // recording.sample_rate), limits)
    if not recording.finite:
        found["not_finite"] = {"detail": PROBLEMS["not_finite"]}
    elif recording.out_of_range:
        found["out_of_range"] = {"detail": describe_out_of_range(recording.peak, recording.level)}
    elif recording.frames and recording.level < SILENCE_LEVEL:
        found["silent"] = {"detail": f"its samples vary by only ±{recording.level:.6f} of full scale"}
    return found


def _length_problems(length: int, limits: DataLimits) -> dict[str, dict[str, Any]]:
    """Return the details of the problems with a recording's length in samples, keyed by kind."""
    found = {}
    if length < MIN_DURATION_S * limits.sample_rate:
        # Two decimal places would show 0.499 s as 0.50 s.
        found["too_short"] = {"detail": f"{length / limits.sample_rate:.3f} s"}
    if length > limits.max_wav_length:
        longest = f"{limits.max_wav_length / limits.sample_rate:.2f} s"
        duration = f"{length / limits.sample_rate:.2f} s"
        found["too_long_audio"] = {"detail": f"{duration}; the model accepts at most {longest}"}
    return found


@garbage_collection_paused()
def _warnings(
    recorded: Sequence[tuple[Sample, Recording, TextCheck]], limits: DataLimits
) -> dict[str, list[dict[str, Any]]]:
    """Return the warning entries for the usable samples, keyed by kind."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WARNINGS}
    rates: dict[int, list[Sample]] = defaultdict(list)
    first: dict[tuple[str, ...], Sample] = {}
    for sample, detail in speaking_rates([(sample, text.letters) for sample, _, text in recorded]):
        found["speaking_rate"].append(_entry(sample, detail))
    for sample, recording, text in recorded:
        rates[recording.sample_rate].append(sample)
        for kind, detail in text.warnings:
            found[kind].append(_entry(sample, detail))
        if recording.sound < LITTLE_SOUND:
            found["mostly_silence"].append(_entry(sample, describe_sound(recording.sound)))
        if recording.clipped > CLIPPED_SHARE * recording.frames:
            found["clipped"].append(_entry(sample, f"{recording.clipped:,} of {recording.frames:,} samples"))
        if recording.sample_rate != limits.sample_rate:
            detail = f"{recording.sample_rate:,} Hz; the model uses {limits.sample_rate:,} Hz"
            found["sample_rate"].append(_entry(sample, detail))
        if recording.channels != 1:
            found["channels"].append(_entry(sample, f"{recording.channels} channels"))
        text_key = ("duplicate_text", sample.language, sample.text.strip())
        for key in (("duplicate_audio", recording.digest), text_key):
            earlier = first.setdefault(key, sample)
            if earlier is not sample:
                manifest = "" if earlier.manifest == sample.manifest else f" in {earlier.manifest}"
                detail = f"the same as {earlier.manifest_audio_file}{manifest}"
                if earlier.audio_file == sample.audio_file and earlier.text != sample.text:
                    detail += f", but the texts differ: {earlier.text[:40]!r} and {sample.text[:40]!r}"
                found[key[0]].append(_entry(sample, detail))
    if len(rates) > 1:
        for rate, members in sorted(rates.items()):
            detail = f"the first recording at {rate:,} Hz ({len(members):,} in total)"
            found["mixed_sample_rates"].append(_entry(members[0], detail))
    return {kind: entries for kind, entries in found.items() if entries}
