"""Replay sets: speech that the base model generates in the languages it knows, stored as codes.

Neither recordings in these languages nor the vocoder is needed. Codes are sampled from the model's full distribution
at temperature 1, so that training on them does not change the model on average. The model's distribution at each
position is stored too, so that a run can be distilled from it without loading the base again.
"""

from __future__ import annotations

import itertools
import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

import xtts_extend
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.dataset import MIN_DURATION_S, STOP_ID, UNKNOWN_ID
from xtts_extend.data.encoded import Utterance, join_parts, open_set, read_index
from xtts_extend.data.processes import SINGLE_PROCESS, Processes
from xtts_extend.errors import ConfigError, DataError, MachineError
from xtts_extend.files import file_digest
from xtts_extend.model.distillation import top_distribution
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, merged_weights
from xtts_extend.progress import with_progress
from xtts_extend.setup.base import config_for_base, require_codec
from xtts_extend.setup.samples import limits_of
from xtts_extend.speech.replay_batches import (
    BATCHES,
    SKIPPED,
    Batch,
    batch_of_texts,
    require_speech,
    store_batch,
    stored_batches,
    voice_name,
    write_batches,
)
from xtts_extend.text.languages import CLEANER_ERRORS, split_sentences
from xtts_extend.text.tokenizer import require_cleanable
from xtts_extend.text.verify import read_lines

logger = logging.getLogger("trainer")

#: Number of batches in each file of the set. At most this many are lost if the process is killed.
_BATCHES_IN_PART = 8
#: Names of the settings in messages.
_SETTINGS = {
    "base_digest": "the base model",
    "texts": "the texts",
    "voices": "the voices",
    "seed": "the seed",
    "conditioning": "the conditioning lengths",
}


def make_replay(
    base_dir: Path,
    texts: Mapping[str, Sequence[Path]],
    references: Sequence[Path],
    hours: float,
    output: Path,
    *,
    conditioning_s: tuple[float, float] | None = None,
    seed: int = 0,
    progress: bool = True,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Generate a replay set of a given duration, divided equally among the languages.

    When all texts have been spoken, they are spoken again with new samples and voices. Utterances that do not end
    (runaway) or end immediately (empty) are skipped. Calling this again with the same arguments resumes an interrupted
    set.

    Args:
        base_dir: A base directory, or a folder that `export` wrote and that has `dvae.pth` and `mel_stats.pth`.
        texts: UTF-8 text files by language.
        references: Recordings of voices. Each batch is conditioned on a slice of one recording.
        hours: Total hours of speech, across all languages.
        output: Folder for the set. The recordings of the voices are copied into it.
        conditioning_s: Lengths of the shortest and longest conditioning slice, in seconds. By default, 3 and 6, as in
            training.
        seed: Seed for the order of texts, the voices, the slices and the codes.
        progress: Whether to show progress.
        processes: The processes that call this function with the same arguments and divide the batches. The set is the
            same as that of a single process.

    Returns:
        `utterances`, `hours` (by language), `runaway`, `empty`, `too_long` (longer than training accepts) and `output`.

    Raises:
        ConfigError: A file is missing from the base, or the folder contains something else.
        DataError: A text or recording cannot be used, or the model generates nothing usable.
        LanguageError: The base does not support a language.
        MachineError: The disk is full, or another process is writing to this set.

    >>> _ = Path("en.txt").write_text("Hello world.", encoding="utf-8")
    >>> result = make_replay(
    ...     Path("XTTS"), {"en": [Path("en.txt")]}, [Path("wavs/am_00001.wav")], hours=0.001, output=Path("replay"),
    ...     conditioning_s=(0.5, 1.0), progress=False,
    ... )
    >>> result["hours"]["en"] >= 0.001
    True
    """
    if not 0 < hours < float("inf"):
        raise ConfigError(f"--hours is {hours}; expected a finite number above 0.")
    output = output.absolute()
    speaker = _Speaker(base_dir, conditioning_s)
    lines = {language: _speakable_lines(speaker, language, files) for language, files in texts.items()}
    settings = {
        "base_digest": file_digest(base_dir / "model.pth"),
        "texts": {language: [file_digest(file) for file in files] for language, files in texts.items()},
        "voices": [file_digest(file) for file in references],
        "seed": seed,
        "conditioning": list(speaker.slice_lengths),
    }
    voices = [load_audio(reference, speaker.sample_rate) for reference in references]
    shortest = speaker.slice_lengths[0]
    if short := [str(path) for path, voice in zip(references, voices, strict=True) if voice.shape[-1] < shortest]:
        raise DataError(
            f"These recordings are shorter than the shortest conditioning slice ({shortest / speaker.sample_rate:.1f} "
            f"s): {', '.join(short)}. Pass longer recordings with --reference."
        )
    is_main = processes.rank == 0
    if is_main:
        counts = {"batches": {}, "seconds": {}, "runaway": 0, "empty": 0, "too_long": 0}
        open_set(output, settings, _SETTINGS, counts)
        for number, voice in enumerate(voices):
            save_wav(output / voice_name(number), voice, speaker.sample_rate)
    try:
        with FileLock(output / ".lock").acquire(timeout=0) if is_main else nullcontext():
            processes.wait()
            # Training reads the copies, whose samples may differ slightly from the originals.
            voices = [load_audio(output / voice_name(number), speaker.sample_rate) for number in range(len(voices))]
            work = _Work(speaker, lines, voices, 3600 * hours / len(lines), output, seed)
            if processes.size > 1:
                _speak_shares(work, processes)
                processes.wait()
            if is_main:
                _generate(work, progress)
            processes.wait()
    except Timeout as error:
        raise MachineError(f"Another process is writing to the replay set {output}. Wait until it finishes.") from error
    index = read_index(output)
    return {
        "utterances": sum(part["rows"] for part in index["parts"]),
        "hours": {language: value / 3600 for language, value in index["seconds"].items()},
        **{reason: index[reason] for reason in SKIPPED},
        "output": str(output),
    }


@dataclass(frozen=True)
class _Work:
    """What a set is generated from.

    Attributes:
        speaker: The base model.
        lines: For each language, its texts and their token ids.
        voices: Recordings of the voices, each (1, samples).
        share: Seconds of speech to generate in each language.
        output: Folder of the set.
        seed: Seed of the set.
    """

    speaker: _Speaker
    lines: Mapping[str, Sequence[tuple[str, list[int]]]]
    voices: Sequence[Tensor]
    share: float
    output: Path
    seed: int

    def speak(self, language: str, number: int) -> Batch:
        """Synthesize batch `number` of a language."""
        return _speak_batch(self.speaker, language, self.lines[language], self.voices, number, self.seed)

    def seconds(self, codes: int) -> float:
        """Return the duration of codes."""
        return codes * int(self.speaker.gpt.code_stride_len) / self.speaker.sample_rate


class _Speaker:
    """A base model that generates codes, conditioned as in training."""

    def __init__(self, base_dir: Path, conditioning_s: tuple[float, float] | None) -> None:
        xtts_extend.enable()
        config = config_for_base(base_dir)
        require_codec(config)
        self.model = ExtendedGPTTrainer(config)
        content, _ = load_checkpoint(base_dir / "model.pth")
        weights = merged_weights(content)
        self.model.load_base(weights, self.model.vocab_size)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.gpt, self.tokenizer = self.model.xtts.gpt, self.model.xtts.tokenizer
        self.gpt.init_gpt_for_inference(kv_cache=config.model_args.kv_cache, use_deepspeed=False)
        self.gpt.eval()
        self.sample_rate = config.audio.sample_rate
        self.slice_lengths = config.model_args.min_conditioning_length, config.model_args.max_conditioning_length
        if conditioning_s is not None:
            self.slice_lengths = (
                round(conditioning_s[0] * self.sample_rate),
                round(conditioning_s[1] * self.sample_rate),
            )
        if not 0 < self.slice_lengths[0] <= self.slice_lengths[1]:
            raise ConfigError(f"--conditioning-s {conditioning_s}: expected 0 < shortest <= longest, in seconds.")
        self.limits = limits_of(config)

    @torch.no_grad()
    def speak(self, ids: Tensor, voice: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor]] | None]:
        """Generate codes and their distributions for texts in a voice.

        Args:
            ids: Token ids, (texts, tokens).
            voice: Conditioning slice, (1, samples), not longer than the longest slice.

        Returns:
            For each text, its codes, (codes,), and their distribution as in `Encoded.distribution`, or None if its
            speech did not end.
        """
        gpt, device = self.gpt, next(self.gpt.parameters()).device
        padded = torch.nn.functional.pad(voice, (0, self.slice_lengths[1] - voice.shape[-1])).to(device)
        mels = self.model.torch_mel_spectrogram_style_encoder(padded.unsqueeze(0)).unsqueeze(1)
        ids = ids.to(device)
        latents = gpt.get_style_emb(mels).transpose(1, 2).expand(len(ids), -1, -1)
        spoken = gpt.generate(
            cond_latents=latents, text_inputs=ids, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_beams=1
        )
        counts = (spoken == gpt.stop_audio_token).int().argmax(dim=1)
        ended = (spoken == gpt.stop_audio_token).any(dim=1)
        # A second pass over all positions at once gives the distributions.
        _, _, logits = gpt(
            ids,
            torch.full((len(ids),), ids.shape[1], device=device),
            spoken,
            torch.where(ended, counts, spoken.shape[1]) * gpt.code_stride_len,
            cond_mels=mels.expand(len(ids), -1, -1, -1),
        )
        top_ids, log_probs = (part.cpu() for part in top_distribution(logits.transpose(1, 2)))
        results: list[tuple[Tensor, tuple[Tensor, Tensor]] | None] = []
        for row, (count, end) in enumerate(zip(counts.tolist(), ended.tolist(), strict=True)):
            codes = spoken[row, :count].cpu()
            if not end or (codes >= gpt.start_audio_token).any():
                results.append(None)
            else:
                results.append((codes, (top_ids[row, : count + 1], log_probs[row, : count + 1])))
        return results


def _speakable_lines(speaker: _Speaker, language: str, files: Sequence[Path]) -> list[tuple[str, list[int]]]:
    """Return the usable sentences and their token ids, and log how many sentences were skipped."""
    require_cleanable(speaker.tokenizer, language)
    limit = speaker.tokenizer.char_limits[language.split("-")[0]]
    sentences, skipped = [], 0
    for file in files:
        for line in read_lines(file):
            for sentence in split_sentences(line, language, limit):
                try:
                    ids = speaker.tokenizer.encode(sentence, language)
                except CLEANER_ERRORS:
                    ids = []
                fits = 1 < len(ids) <= speaker.limits.max_text_length
                if UNKNOWN_ID in ids or STOP_ID in ids or not fits or not any(map(str.isalnum, sentence)):
                    skipped += 1
                else:
                    sentences.append((sentence, ids))
    logger.info(
        " > %s: usable sentences: %d; skipped because they have no words, are too long or cannot be tokenized: %d.",
        language,
        len(sentences),
        skipped,
    )
    if not sentences:
        raise DataError(
            f"No usable sentences for language {language} were found in {', '.join(map(str, files))}. "
            "Pass different texts."
        )
    return sentences


def _speak_shares(work: _Work, processes: Processes) -> None:
    """Speak this process's share of the batches, until the processes together have spoken enough.

    Each batch is a file of its own until rank 0 collects them, so that a killed process loses only one.
    """
    index = read_index(work.output)
    for language in work.lines:
        first, seconds = index["batches"].get(language, 0), index["seconds"].get(language, 0.0)
        # The first number from `first` on that is this process's.
        for number in itertools.count(first + (processes.rank - first) % processes.size, processes.size):
            stored = [batch for batch in stored_batches(work.output).values() if batch.language == language]
            codes = sum(batch.codes for batch in stored if first <= batch.number < number)
            # Batches are used in order, so this one is needed only if the earlier ones are too short.
            if seconds + work.seconds(codes) >= work.share:
                break
            require_speech(language, len(stored), seconds + sum(batch.codes for batch in stored))
            if all(batch.number != number for batch in stored):
                store_batch(work.output, work.speak(language, number), number)


def _generate(work: _Work, progress: bool) -> None:
    """Generate speech until each language has its share of the seconds, writing parts along the way."""
    total = int(work.share * len(work.lines))
    stored = stored_batches(work.output)

    def spoken_seconds() -> Iterator[None]:
        """Yield once per second of speech, for the progress bar."""
        index = counted = read_index(work.output)
        pending: list[Batch] = []
        reported_s = 0
        try:
            while True:
                spoken_s = min(total, int(sum(counted["seconds"].values())))
                yield from [None] * (spoken_s - reported_s)
                reported_s = spoken_s
                unfinished = [code for code in work.lines if counted["seconds"].get(code, 0.0) < work.share]
                if not unfinished:
                    break
                for language in unfinished:
                    number = counted["batches"].get(language, 0)
                    spoken = stored.get((language, number))
                    pending.append(spoken.read() if spoken else work.speak(language, number))
                counted = _count(work, index, pending)
                for language in unfinished:
                    require_speech(language, counted["batches"][language], counted["seconds"][language])
                if len(pending) >= _BATCHES_IN_PART:
                    index = counted = write_batches(work.output, counted, pending)
                    pending = []
        finally:
            if pending:
                write_batches(work.output, _count(work, index, pending), pending)
            join_parts(work.output)

    for _ in with_progress(spoken_seconds(), total, "seconds of speech", progress):
        pass
    shutil.rmtree(work.output / BATCHES, ignore_errors=True)


def _count(work: _Work, index: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """Return the index updated with these batches, but without the entry for the part that contains them."""
    counted = {**index, "batches": dict(index["batches"]), "seconds": dict(index["seconds"])}
    for batch in batches:
        counted["batches"][batch.language] = counted["batches"].get(batch.language, 0) + 1
        counted["seconds"][batch.language] = counted["seconds"].get(batch.language, 0.0) + work.seconds(batch.codes)
        for reason, number in batch.skipped.items():
            counted[reason] += number
    return counted


def _speak_batch(
    speaker: _Speaker,
    language: str,
    lines: Sequence[tuple[str, list[int]]],
    voices: Sequence[Tensor],
    number: int,
    seed: int,
) -> Batch:
    """Synthesize batch `number` of a language's texts."""
    texts = batch_of_texts(lines, language, number, seed)
    generator = random.Random(f"replay {seed} {language} {number}")
    torch.manual_seed(generator.getrandbits(62))
    voice_number = generator.randrange(len(voices))
    voice = voices[voice_number]
    samples = voice.shape[-1]
    length = min(generator.randint(*speaker.slice_lengths), samples)
    start = generator.randint(0, samples - length)
    results = speaker.speak(torch.tensor([ids for _, ids in texts]), voice[:, start : start + length])
    utterances = []
    skipped = dict.fromkeys(SKIPPED, 0)
    for (text, _), result in zip(texts, results, strict=True):
        if result is None:
            skipped["runaway"] += 1
            continue
        codes, distribution = result
        samples_spoken = len(codes) * speaker.gpt.code_stride_len
        duration_s = samples_spoken / speaker.sample_rate
        if duration_s < MIN_DURATION_S or samples_spoken > speaker.limits.max_wav_length:
            skipped["empty" if duration_s < MIN_DURATION_S else "too_long"] += 1
            continue
        name = voice_name(voice_number)
        utterances.append(Utterance(text, language, name, codes, (start, start + length), distribution))
    return Batch(language, utterances, skipped)
