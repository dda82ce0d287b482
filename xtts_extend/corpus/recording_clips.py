"""Take one recording through all stages: from its file and its text to clips, and to what is set aside."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from xtts_extend.corpus.aligners import CtcAligner, PlugAligner, load_aligner
from xtts_extend.corpus.alignment import (
    AlignedWord,
    Alignment,
    Heard,
    align_chunk,
    join_chunks,
)
from xtts_extend.corpus.chunks import plan_chunks, plan_cues
from xtts_extend.corpus.clip import Clip, SetAside
from xtts_extend.corpus.clip_making import measure_clip, missing_texts, untold_speech, unusable_segments
from xtts_extend.corpus.emissions import compute_emissions, greedy
from xtts_extend.corpus.loudness import SpeechLevel, speech_level
from xtts_extend.corpus.pauses import Loudness, loudness_curve
from xtts_extend.corpus.recognized import Part, heard_in, parts_of, words_of_parts
from xtts_extend.corpus.recording import RecordingInfo, convert_recording, read_span, recording_id
from xtts_extend.corpus.segments import Segment, cut_run
from xtts_extend.corpus.sources import Source, TextKind
from xtts_extend.corpus.stages import Json, Stages, digest_of
from xtts_extend.corpus.subtitles import read_cues, words_of_cues
from xtts_extend.corpus.transcript import read_transcript, words_of_transcript
from xtts_extend.corpus.unheard import Rivals, mean_score, without_unheard
from xtts_extend.corpus.voice_activity import Span, find_speech, require_speech
from xtts_extend.corpus.words import Word, join_words
from xtts_extend.data.audio import content_digest, resampled_length
from xtts_extend.data.audio_file import Frames
from xtts_extend.errors import ConfigError, DataError
from xtts_extend.progress import with_progress
from xtts_extend.speech.plugs import is_plug, plug_digest
from xtts_extend.speech.recognition import Recogniser, character_errors, load_recogniser
from xtts_extend.text.languages import get_language
from xtts_extend.text.vocabulary import name_character

logger = logging.getLogger("trainer")
T = TypeVar("T")

# Recognizers of transformers expect this rate, in Hz; a function that is passed as --asr or --aligner gets it, too.
_RATE = 16_000
# Below this share of heard letters that are in the text, a text belongs to another recording. Between unrelated texts
# of one language, a third match by accident, but hardly ever half of a phrase.
_LEAST_HEARD_SHARE = 0.2
# Similarity of the pairs of letters (`Match.likeness`) below which a text is in another language than the speech.
_SAME_LANGUAGE = 0.6


@dataclass(frozen=True)
class Settings:
    """How recordings become clips.

    Attributes:
        language: Code of the language that is spoken.
        aligner: Places words in time.
        min_score: Lowest score of a clip that is accepted, 0 to 1.
        recognise: The recognizer, or None if there is none.
        asr_key: Name of the recognizer and whatever else its results depend on.
    """

    language: str
    aligner: CtcAligner | PlugAligner
    min_score: float
    recognise: Recogniser | None = None
    asr_key: str = ""


def load_settings(language: str, aligner: str, asr: str | None, asr_language: str | None, min_score: float) -> Settings:
    """Load the models and functions that are named on the command line.

    Args:
        language: Code of the language that is spoken.
        aligner: See `load_aligner`.
        asr: See `load_recogniser`. None for no recognizer.
        asr_language: The code of the language for both; None for `language`.
        min_score: Lowest score of a clip that is accepted, 0 to 1.

    Raises:
        LanguageError: The language code is malformed.
        ConfigError: A model or function cannot be loaded.
    """
    get_language(language)
    code = asr_language or language
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_aligner(aligner, code, device)
    if asr is None:
        return Settings(language, loaded, min_score)
    recognise = load_recogniser(asr, code)
    key = digest_of([asr, code, plug_digest(asr) if is_plug(asr) else None])
    return Settings(language, loaded, min_score, recognise, key)


@dataclass(frozen=True)
class Prepared:
    """A recording, its clips and what was set aside.

    Attributes:
        id: The recording's id.
        info: Its format and measurements.
        level: How loud it is.
        speech: Where there is speech.
        clips: Its clips in order, accepted or not.
        set_aside: Its speech without text, and text without speech.
        found: First and last word (exclusive) of the text that was found in the recording.
    """

    id: str
    info: RecordingInfo
    level: SpeechLevel
    speech: list[Span]
    clips: list[Clip]
    set_aside: list[SetAside]
    found: tuple[int, int]


class RecordingClips:
    """The stages of one recording.

    Args:
        source: The recording, its text and its speaker.
        work: Folder for the results of the stages of all recordings.
        settings: How recordings become clips.
        progress: Whether to show progress.

    Attributes:
        id: The recording's id.
        path: Its path, as the user passed it.
        flac: Its working copy.

    Raises:
        DataError: The recording cannot be read.
    """

    def __init__(self, source: Source, work: Path, settings: Settings, progress: bool = True) -> None:
        self._source, self._settings, self._progress = source, settings, progress
        self.path = str(source.path)
        digest = content_digest(source.path)
        self.id = recording_id(source.path, digest)
        self.flac = work / self.id / "audio.flac"
        self._stages = Stages(work / self.id, digest)

    def prepare(self) -> Prepared:
        """Run the stages that are not finished yet, and return the results of all.

        Raises:
            DataError: The recording or its text cannot be used, or they do not belong together.
            ConfigError: The aligner or recognizer fails, or there is no text and no recognizer.
            MachineError: A result cannot be written.
        """
        info = self._convert()
        speech = self._find_speech(info)
        require_speech(self._source.path, info, speech)
        level = self._measure_level(info, speech)
        parts = self._recognize_parts(info, speech)
        words = self._read_words(parts)
        alignment = self._align(info, speech, words, parts)
        self._require_match(alignment)
        clips, set_aside = self._read_clips(info, speech, level, words, alignment)
        indices = [word.index for run in alignment.runs for word in run]
        return Prepared(self.id, info, level, speech, clips, set_aside, (min(indices), max(indices) + 1))

    def read(self, start_s: float, end_s: float, rate: int) -> Frames:
        """Return a part of the recording at a sample rate, float32 [samples]."""
        return read_span(self.flac, start_s, end_s, rate)

    def _convert(self) -> RecordingInfo:
        if not self.flac.exists():
            self._stages.forget("recording")

        def convert() -> Json:
            return asdict(convert_recording(self._source.path, self.flac, self._progress))

        info = RecordingInfo(**self._stages.run("recording", [], convert))
        if info.channel_note:
            logger.info(" > %s: %s", self._source.path, info.channel_note)
        return info

    def _find_speech(self, info: RecordingInfo) -> list[Span]:
        def find() -> Json:
            return [astuple(span) for span in find_speech(self.flac, info.duration_s, self._progress)]

        return [Span(*span) for span in self._stages.run("speech", [], find)]

    def _measure_level(self, info: RecordingInfo, speech: list[Span]) -> SpeechLevel:
        def measure_level() -> Json:
            return asdict(speech_level(self.flac, info.sample_rate, speech))

        return SpeechLevel(**self._stages.run("level", [], measure_level))

    def _recognize_parts(self, info: RecordingInfo, speech: list[Span]) -> list[Part] | None:
        """Return what the recognizer hears, if that is needed: for the text, or to find the text's place."""
        has_text = self._source.kind is not TextKind.NONE
        if self._settings.recognise is None:
            if not has_text:
                raise DataError(
                    f"{self._source.path} has no text: there are no subtitles and no transcript with its name, and no "
                    "other text in its folder. Put its text beside it, or pass --text FILE or --asr MODEL."
                )
            return None
        if has_text and isinstance(self._settings.aligner, CtcAligner):
            return None
        return self._recognize("recognized", parts_of(speech, info.duration_s), self._settings.recognise)

    def _recognize(self, name: str, spans: Sequence[tuple[float, float]], recognise: Recogniser) -> list[Part]:
        def hear(number: int) -> Json:
            return recognise(self.read(*spans[number], _RATE), _RATE)

        heard = self._stages.run_each(name, [self._settings.asr_key, spans], len(spans), hear)
        shown = with_progress(heard, len(spans), "parts recognized", self._progress)
        return [Part(start_s, end_s, text) for (start_s, end_s), text in zip(spans, shown, strict=True)]

    def _read_words(self, parts: list[Part] | None) -> list[Word]:
        path, language = self._source.text_path, self._settings.language
        if path is None:
            words = words_of_parts(parts or [], language)
        elif self._source.kind is TextKind.SUBTITLES:
            words = words_of_cues(read_cues(path, language), language)
        else:
            words = words_of_transcript(read_transcript(path, language), language)
        if not any(word.spoken for word in words):
            where = f"The recognizer heard no words in {self._source.path}" if path is None else f"{path} has no words"
            raise DataError(f"{where}. Check that the file and the language ({language}) are right.")
        return words

    def _align(self, info: RecordingInfo, speech: list[Span], words: list[Word], parts: list[Part] | None) -> Alignment:
        aligner = self._settings.aligner
        inputs = [
            digest_of([astuple(word) for word in words]),
            aligner.digest,
            None if parts is None else digest_of([astuple(part) for part in parts]),
        ]

        def align() -> Json:
            if isinstance(aligner, CtcAligner):
                return self._align_by_ctc(aligner, info, speech, words).to_json()
            return self._align_by_plug(aligner, info, words, parts, inputs).to_json()

        return Alignment.from_json(self._stages.run("alignment", inputs, align))

    def _align_by_ctc(
        self, aligner: CtcAligner, info: RecordingInfo, speech: list[Span], words: list[Word]
    ) -> Alignment:
        spoken = [word.spoken for word in words]
        letters = aligner.token_ids(spoken)
        if unknown := aligner.unknown_letters(spoken):
            counts = ", ".join(f"{name_character(letter)} {count:,}" for letter, count in unknown.most_common(10))
            logger.warning(" ! %s ignores letters of the text that it does not know: %s.", aligner.name, counts)
        samples = resampled_length(info.frames, info.sample_rate, aligner.rate)
        emissions = compute_emissions(
            lambda first, last: self.read(first / aligner.rate, last / aligner.rate, aligner.rate),
            samples,
            info.digest,
            speech,
            aligner,
            self.flac.with_name("emissions"),
            progress=self._progress,
        )
        columns, frames = greedy(emissions)
        heard = Heard(columns.astype(np.int64), frames.astype(np.float64) * emissions.stride_s)
        plan = plan_chunks(words, letters, heard, info.duration_s)
        chunks = self._show(plan.chunks, len(plan.chunks))
        alignment = join_chunks(plan, (align_chunk(chunk, letters, emissions) for chunk in chunks))
        return without_unheard(alignment, words, Rivals(words, letters, emissions))

    def _align_by_plug(
        self, aligner: PlugAligner, info: RecordingInfo, words: list[Word], parts: list[Part] | None, inputs: Json
    ) -> Alignment:
        if parts is not None:
            letters = [[ord(letter) for letter in word.spoken] for word in words]
            bounds = [(part.start_s, part.end_s) for part in parts]
            heard = heard_in(parts, self._settings.language)
            plan = plan_chunks(words, letters, heard, info.duration_s, bounds)
        elif self._source.kind is TextKind.SUBTITLES:
            plan = plan_cues(words, info.duration_s)
        else:
            raise ConfigError(
                f"--aligner {aligner.name} does not tell where in {self._source.path} the text begins. Pass --asr, use "
                "subtitles instead of a transcript, or choose a CTC model as --aligner."
            )

        def align(number: int) -> Json:
            chunk = plan.chunks[number]
            audio = self.read(chunk.start_s, chunk.end_s, _RATE)
            spoken = [index for index in range(chunk.first, chunk.last) if words[index].spoken]
            times = aligner.align(audio, _RATE, [words[index].spoken for index in spoken])
            found = dict(zip(spoken, times, strict=True))
            aligned, end_s = [], chunk.start_s
            for index in range(chunk.first, chunk.last):
                # What is not spoken has no time of its own.
                start, end, score = found.get(index, (end_s - chunk.start_s, end_s - chunk.start_s, 0.0))
                end_s = chunk.start_s + end
                aligned.append((index, chunk.start_s + start, end_s, score))
            return aligned

        count = len(plan.chunks)
        aligned = self._show(self._stages.run_each("aligned", inputs, count, align), count)
        alignment = join_chunks(plan, ([AlignedWord(*word) for word in timed] for timed in aligned))
        return without_unheard(alignment, words)

    def _show(self, chunks: Iterable[T], count: int) -> Iterator[T]:
        return with_progress(chunks, count, "chunks aligned", self._progress)

    def _require_match(self, alignment: Alignment) -> None:
        match = alignment.match
        if alignment.runs and (match is None or match.heard_share >= _LEAST_HEARD_SHARE):
            return
        text = self._source.text_path or "its text"
        if match is None or match.heard_share >= _LEAST_HEARD_SHARE:
            raise DataError(f"No sentence of {text} was heard in {self._source.path}. Check that they belong together.")
        cause = (
            "is probably in another language"
            if match.likeness < _SAME_LANGUAGE
            else "probably belongs to another recording"
        )
        raise DataError(
            f"{text} {cause}: {match.heard_share:.0%} of the letters heard in {self._source.path} are in it. Pass the "
            f"text of this recording, in the language that is spoken ({self._settings.language})."
        )

    def _read_clips(
        self, info: RecordingInfo, speech: list[Span], level: SpeechLevel, words: list[Word], alignment: Alignment
    ) -> tuple[list[Clip], list[SetAside]]:
        inputs = [
            digest_of([join_words(words), alignment.to_json(), self._source.kind.value]),
            [self.path, self._source.speaker_name, self._settings.language, self._settings.asr_key],
        ]

        def make() -> Json:
            clips, set_aside = self._make_clips(info, speech, level, words, alignment)
            return [[clip.to_json() for clip in clips], [item.to_json() for item in set_aside]]

        where = str(self.flac.with_name("clips.json"))
        clips, set_aside = self._stages.run("clips", inputs, make)
        return [Clip.from_json(clip, where) for clip in clips], [SetAside.from_json(item, where) for item in set_aside]

    def _make_clips(
        self, info: RecordingInfo, speech: list[Span], level: SpeechLevel, words: list[Word], alignment: Alignment
    ) -> tuple[list[Clip], list[SetAside]]:
        loudness = Loudness(loudness_curve(self.flac))
        segments = [segment for run in alignment.runs for segment in cut_run(run, words, loudness)]
        cut = [segment for segment in segments if segment.uncut is None]
        spoken = [words[segment.first : segment.last] for segment in cut]
        texts = list(map(join_words, spoken))
        error_rates = self._error_rates(cut, texts)
        aligned = {word.index: word for run in alignment.runs for word in run}
        clips = []
        for segment, its_words, text, error_rate in zip(cut, spoken, texts, error_rates, strict=True):
            score = mean_score([aligned[index] for index in range(segment.first, segment.last)], its_words)
            start_s, end_s = round(segment.start_s, 3), round(segment.end_s, 3)
            clips.append(
                Clip(
                    id=f"{self.id}-{round(1000 * start_s):08d}",
                    recording_id=self.id,
                    recording=self.path,
                    text=text,
                    start_s=start_s,
                    end_s=end_s,
                    speaker_name=self._source.speaker_name,
                    language=self._settings.language,
                    scores=measure_clip(self.flac, info, level, speech, (start_s, end_s), text, score, error_rate),
                )
            )
        is_part = self._source.kind is TextKind.BOOK
        set_aside = [
            *unusable_segments(segments, words, self.id, self.path),
            *missing_texts(alignment, words, self.id, self.path, is_part),
            *untold_speech(speech, segments, self.id, self.path),
        ]
        return clips, set_aside

    def _error_rates(self, segments: Sequence[Segment], texts: Sequence[str]) -> list[float | None]:
        """Return the character error rate of the recognizer on each clip, unless the text is the recognizer's."""
        recognise = self._settings.recognise
        if recognise is None or self._source.kind is TextKind.NONE:
            return [None] * len(segments)
        spans = [(segment.start_s, segment.end_s) for segment in segments]
        rates: list[float | None] = []
        for part, text in zip(self._recognize("recognized-clips", spans, recognise), texts, strict=True):
            errors, letters = character_errors(text, part.text)
            rates.append(errors / max(1, letters))
        return rates
