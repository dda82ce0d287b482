"""A replay set: the base model speaks texts in the languages that it knows, and what it says is kept as codes.

No recording of these languages is needed, and no vocoder. Codes are drawn from the model's whole distribution, at
temperature 1, so that on average they teach exactly what the model says already; its distribution at each place is kept
beside them, so that a run can be held to it without loading the base again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
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
from xtts_extend.data.encoded import Utterance, file_digest, open_set, read_index, write_index, write_part
from xtts_extend.errors import ConfigError, DataError, MachineError
from xtts_extend.model.distillation import top_distribution
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, merged_weights
from xtts_extend.progress import with_progress
from xtts_extend.setup.base import config_for_base, require_codec
from xtts_extend.setup.samples import limits_of
from xtts_extend.text.languages import CLEANER_ERRORS, split_sentences
from xtts_extend.text.tokenizer import require_cleanable
from xtts_extend.text.verify import read_lines

logger = logging.getLogger("trainer")

#: Utterances that are spoken together; all of one batch have as many tokens, because coqui's generation cannot pad.
BATCH = 8
#: Batches in a file of the set: what a kill can cost at most.
_BATCHES_IN_PART = 8
#: A language of which nothing can be used after so many is given up.
_BATCHES_TO_JUDGE = 20
#: What settings are called in messages.
_SETTINGS = {
    "base_digest": "the base model",
    "texts": "the texts",
    "voices": "the voices",
    "seed": "the seed",
    "conditioning": "the lengths of the conditioning",
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
) -> dict[str, Any]:
    """Let a base model speak texts until there are so many hours of codes, as many of each language.

    A text is spoken again, drawn anew and by another voice, when all have been. What does not end (runaway), or ends at
    once (empty), is left out. Calling it again with the same arguments goes on where it was interrupted.

    Args:
        base_dir: a base directory, or a folder that `export` wrote beside `dvae.pth` and `mel_stats.pth`.
        texts: files of text in UTF-8, by language.
        references: recordings of voices; each batch is conditioned by a slice of one.
        hours: of speech, of all languages together.
        output: the folder of the set; recordings of the voices are copied into it.
        conditioning_s: the shortest and the longest slice; by default those of training, 3 to 6 s.
        seed: of texts' order, voices, slices and codes.
        progress: show a bar.

    Returns:
        `utterances`, `hours` by language, `runaway`, `empty`, `too_long` (more than training takes) and `output`.

    Raises:
        ConfigError: the base lacks files, or the folder holds something else.
        DataError: a text or a recording cannot be used, or the model does not say anything that can.
        LanguageError: the base does not know a language.
        MachineError: the disk is full, or another process makes this set.
    """
    if not 0 < hours < float("inf"):
        raise ConfigError(f"--hours is {hours}; a finite number above 0 was expected.")
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
    least = speaker.slice_lengths[0]
    if short := [str(path) for path, voice in zip(references, voices, strict=True) if voice.shape[-1] < least]:
        raise DataError(
            f"Shorter than the shortest slice that conditions ({least / speaker.sample_rate:.1f} s): "
            f"{', '.join(short)}. Give longer recordings of these voices."
        )
    counts = {"batches": {}, "seconds": {}, "runaway": 0, "empty": 0, "too_long": 0}
    open_set(output, settings, _SETTINGS, counts)
    lock = FileLock(output / ".lock")
    try:
        with lock.acquire(timeout=0):
            return _fill(speaker, lines, voices, 3600 * hours, output, settings, progress)
    except Timeout as error:
        raise MachineError(f"Another process makes the replay set {output}. Let it finish.") from error


class _Speaker:
    """A base model that generates codes, with the conditioning that training gives it."""

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
            raise ConfigError(f"--conditioning-s {conditioning_s}: 0 < shortest <= longest was expected, in seconds.")
        # what training will take
        self.limits = limits_of(config)

    @torch.no_grad()
    def speak(self, ids: Tensor, voice: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor]] | None]:
        """Codes and their distributions for texts in a voice.

        Args:
            ids: (texts, tokens).
            voice: (1, samples), not longer than the longest conditioning.

        Returns:
            Of each text codes (codes,) and what `Encoded.distribution` gives; None where there was no end.
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
        # what was spoken, once more with all places at once
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
    """Sentences and their ids; those with nothing to say, or that cannot be spelled, are left out, and counted."""
    require_cleanable(speaker.tokenizer, language)
    limit = speaker.tokenizer.char_limits[language.split("-")[0]]
    found, left_out = [], 0
    for file in files:
        for line in read_lines(file):
            for sentence in split_sentences(line, language, limit):
                try:
                    ids = speaker.tokenizer.encode(sentence, language)
                except CLEANER_ERRORS:
                    ids = []
                fits = 1 < len(ids) <= speaker.limits.max_text_length
                if UNKNOWN_ID in ids or STOP_ID in ids or not fits or not any(map(str.isalnum, sentence)):
                    left_out += 1
                else:
                    found.append((sentence, ids))
    logger.info(
        " > %s: %d sentences, %d more without words, or that the vocabulary cannot spell or fit",
        language,
        len(found),
        left_out,
    )
    if not found:
        raise DataError(f"No usable sentence in {', '.join(map(str, files))} for {language}. Give other texts.")
    return found


def _fill(
    speaker: _Speaker,
    lines: Mapping[str, Sequence[tuple[str, list[int]]]],
    voices: Sequence[Tensor],
    seconds: float,
    output: Path,
    settings: Mapping[str, Any],
    progress: bool,
) -> dict[str, Any]:
    """Speak until each language has its share of the seconds; parts and index are written as it goes."""
    index = read_index(output)
    for number, voice in enumerate(voices):
        save_wav(output / _voice_name(number), voice, speaker.sample_rate)
    # as they will be read again
    voices = [load_audio(output / _voice_name(number), speaker.sample_rate) for number in range(len(voices))]
    share = seconds / len(lines)

    def spoken() -> Iterator[None]:
        """One item for each second of speech."""
        pending: list[_Batch] = []
        counted, said = index, 0
        try:
            while True:
                now = min(int(seconds), int(sum(counted["seconds"].values())))
                yield from [None] * (now - said)
                said = now
                wanting = [code for code in lines if counted["seconds"].get(code, 0.0) < share]
                if not wanting:
                    break
                for language in wanting:
                    number = counted["batches"].get(language, 0)
                    pending.append(_speak_batch(speaker, language, lines[language], voices, number, settings["seed"]))
                counted = _count(index, pending)
                _require_speech(counted, wanting)
                if len(pending) >= _BATCHES_IN_PART:
                    _keep(output, index, pending)
        finally:
            if pending:
                _keep(output, index, pending)

    for _ in with_progress(spoken(), int(seconds), "seconds of speech", progress):
        pass
    return {
        "utterances": sum(part["rows"] for part in index["parts"]),
        "hours": {language: value / 3600 for language, value in index["seconds"].items()},
        "runaway": index["runaway"],
        "empty": index["empty"],
        "too_long": index["too_long"],
        "output": str(output),
    }


def _voice_name(number: int) -> str:
    return f"voice-{number:03d}.wav"


@dataclass(frozen=True)
class _Batch:
    """What the model said of texts that were spoken together, and why some of it is left out."""

    language: str
    utterances: list[Utterance]
    seconds: float
    left_out: dict[str, int]


def _count(index: Mapping[str, Any], batches: Sequence[_Batch]) -> dict[str, Any]:
    """The index as it is with these batches, all but their part."""
    counted = {**index, "batches": dict(index["batches"]), "seconds": dict(index["seconds"])}
    for batch in batches:
        counted["batches"][batch.language] = counted["batches"].get(batch.language, 0) + 1
        counted["seconds"][batch.language] = counted["seconds"].get(batch.language, 0.0) + batch.seconds
        for reason, number in batch.left_out.items():
            counted[reason] += number
    return counted


def _require_speech(index: Mapping[str, Any], languages: Sequence[str]) -> None:
    """Give up a language of which nothing could be used so far."""
    for language in languages:
        tried = index["batches"][language]
        if tried >= _BATCHES_TO_JUDGE and not index["seconds"][language]:
            raise DataError(
                f"Nothing of the first {tried} batches in {language} can be used: what the model says does not end, or "
                "is over at once. It does not speak the language, or not with these voices; try `speak` first."
            )


def _keep(output: Path, index: dict[str, Any], pending: list[_Batch]) -> None:
    """Write what was spoken as a part, and then the index that counts it; done twice, it is the same."""
    counted = _count(index, pending)
    if utterances := [utterance for batch in pending for utterance in batch.utterances]:
        counted["parts"] = [*index["parts"], write_part(output, len(index["parts"]), utterances)]
    write_index(output, counted)
    pending.clear()
    index.update(counted)


def _speak_batch(
    speaker: _Speaker,
    language: str,
    lines: Sequence[tuple[str, list[int]]],
    voices: Sequence[Tensor],
    number: int,
    seed: int,
) -> _Batch:
    """Batch `number` of a language."""
    texts = _batch_of_texts(lines, language, number, seed)
    draw = random.Random(f"replay {seed} {language} {number}")
    torch.manual_seed(draw.getrandbits(62))
    chosen = draw.randrange(len(voices))
    samples = voices[chosen].shape[-1]
    length = min(draw.randint(*speaker.slice_lengths), samples)
    start = draw.randint(0, samples - length)
    found = speaker.speak(torch.tensor([ids for _, ids in texts]), voices[chosen][:, start : start + length])
    utterances = []
    left_out = dict.fromkeys(("runaway", "empty", "too_long"), 0)
    for (text, _), result in zip(texts, found, strict=True):
        if result is None:
            left_out["runaway"] += 1
            continue
        codes, distribution = result
        samples_spoken = len(codes) * speaker.gpt.code_stride_len
        duration_s = samples_spoken / speaker.sample_rate
        if duration_s < MIN_DURATION_S or samples_spoken > speaker.limits.max_wav_length:
            left_out["empty" if duration_s < MIN_DURATION_S else "too_long"] += 1
            continue
        voice = _voice_name(chosen)
        utterances.append(Utterance(text, language, voice, codes, (start, start + length), distribution))
    seconds = sum(len(utterance.codes) for utterance in utterances) * speaker.gpt.code_stride_len / speaker.sample_rate
    return _Batch(language, utterances, seconds, left_out)


def _batch_of_texts(
    lines: Sequence[tuple[str, list[int]]], language: str, number: int, seed: int
) -> list[tuple[str, list[int]]]:
    """Batch `number` of endless passes over the lines; all texts of a batch have as many tokens."""
    by_length: dict[int, list[tuple[str, list[int]]]] = {}
    for line in lines:
        by_length.setdefault(len(line[1]), []).append(line)
    size = sum(-(-len(part) // BATCH) for part in by_length.values())
    turn, place = divmod(number, size)
    draw = random.Random(f"texts {seed} {language} {turn}")
    batches = []
    for length in sorted(by_length):
        part = draw.sample(by_length[length], len(by_length[length]))
        batches += [part[start : start + BATCH] for start in range(0, len(part), BATCH)]
    return draw.sample(batches, len(batches))[place]
