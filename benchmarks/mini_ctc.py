"""Train a small CTC model on human speech, in the format of transformers, as a stand-in for MMS.

    python benchmarks/mini_ctc.py OUTPUT_FOLDER --packages PACKAGES --download --hours 45

The model hears Czech and Dutch dialogues of a game, a Russian reader, and words and short sentences in five more
languages; see human_data.py for the Debian packages. It does not hear the Czech recordings that `is_held_out` names,
half of the music, nor any Bulgarian: benchmarks/long_recordings.py tests with those. Its letters are a to z and the
apostrophe, as uroman writes them, so that OUTPUT_FOLDER can be passed to `xtts-extend make-dataset --aligner`.

CTC from scratch outputs only blanks for hours of speech. The first epochs therefore hear single utterances, first the
short ones. Then speech is joined to stretches with pauses, noise and music between, because windows of a long recording
contain all of these. Set OMP_NUM_THREADS=1 on a busy machine: two threads that wait for each other were twenty times
slower there.

Prints losses, and character error rates of a greedy decode by time. Saves the model every few minutes; spectrograms are
kept in OUTPUT_FOLDER/features.pt for the next training.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
import uroman
from human_data import PACKAGES, Recording, is_held_out, music_files, read_corpus, unpack
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

from xtts_extend.speech.recognition import character_errors

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
BLANK, UNKNOWN = 0, 1
RATE = 16000
#: Spectrogram frames of 10 ms per frame of the model.
STRIDE = 3
_MELS = 80
#: How often an epoch repeats each language; Czech is the one that the benchmark needs most.
_REPEATS = {"cs": 5, "nl": 1, "ru_reader": 1, "ru": 1, "ro": 1, "es": 1, "be": 1, "el": 1}
_TESTS = {"cs": 60, "bg": 60}
#: Share of the training that hears single utterances, and the longest of them in the first epochs, in frames of 10 ms.
_SINGLES_SHARE, _LONGEST = 0.7, (300, 500, 900)
_STRETCH_FRAMES = (400, 1600)
_BATCH_FRAMES = 4000
_PEAK_RATE, _WARM_UP_STEPS = 1e-3, 200
_SAVE_EVERY_S = 120


@dataclass
class Utterance:
    """A recording as the model hears it.

    Attributes:
        features: Log mel energies, float16 [frames, mels].
        letters: Token ids of the romanized text.
    """

    features: torch.Tensor
    letters: list[int]


def token_ids(text: str) -> list[int]:
    """Return the token ids of a romanized text; other characters are omitted."""
    return [UNKNOWN + 1 + LETTERS.index(letter) for letter in text.lower() if letter in LETTERS]


def letters_of(ids: list[int], *, collapse: bool = True) -> str:
    """Return the letters of token ids; those of a greedy decode repeat a token for each of its frames."""
    previous, text = BLANK, ""
    for token in ids:
        if token not in (BLANK, UNKNOWN) and not (collapse and token == previous):
            text += LETTERS[token - UNKNOWN - 1]
        previous = token
    return text


def log_mels(file: Path) -> torch.Tensor:
    """Return what SeamlessM4TFeatureExtractor computes before it normalizes, float16 [frames, mels]."""
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(1), rate, RATE)
    if len(mono) < RATE // 10:
        return torch.zeros(0, _MELS, dtype=torch.float16)
    return torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(mono)[None] * 2**15, num_mel_bins=_MELS, window_type="povey", sample_frequency=RATE
    ).half()


def normalize(features: torch.Tensor) -> torch.Tensor:
    """Return features with mean 0 and variance 1 in each mel band, as SeamlessM4TFeatureExtractor does."""
    return (features - features.mean(0)) / (features.var(0) + 1e-7).sqrt()


@functools.cache
def romanizer() -> uroman.Uroman:
    """Return uroman, which takes a second to load."""
    return uroman.Uroman()


def read_utterance(recording: Recording) -> Utterance | None:
    """Return a recording as the model hears it; None if it is longer than 30 s or too short for its letters."""
    features = log_mels(recording.file)
    letters = token_ids(romanizer().romanize_string(recording.text.lower()))
    if not letters or not len(letters) * STRIDE < len(features) < 3000:
        return None
    return Utterance(features, letters)


def read_speech(packages: Path) -> dict[str, list[Utterance]]:
    """Return utterances by language; "test-LANGUAGE" are not trained on, and "music" has no letters."""
    recordings: dict[str, list[Recording]] = {}
    for language in _REPEATS:
        corpus = read_corpus(packages, language).recordings
        recordings[language] = [one for one in corpus if not is_held_out(one, language)]
    for language, count in _TESTS.items():
        tests = [one for one in read_corpus(packages, language).recordings if is_held_out(one, language)]
        recordings[f"test-{language}"] = tests[:: max(1, len(tests) // count)]
    speech = {}
    with multiprocessing.get_context("spawn").Pool(4, torch.set_num_threads, (1,)) as pool:
        for name, some in recordings.items():
            speech[name] = [one for one in pool.map(read_utterance, some, chunksize=8) if one]
            minutes = sum(len(one.features) for one in speech[name]) / 6000
            print(f"{name}: {minutes:.1f} min, {len(speech[name])} of {len(some)}", flush=True)
        music = pool.map(log_mels, music_files(packages, held_out=False))
    return speech | {"music": [Utterance(features, []) for features in music]}


class Mixer:
    """Joins utterances of a language to stretches with pauses, noise and music between."""

    def __init__(self, music: list[Utterance], generator: np.random.Generator) -> None:
        self._music = music
        self._generator = generator

    def mix(self, utterances: list[Utterance]) -> Utterance:
        """Return one utterance as it is, or several one after the other; with noise in half of all cases."""
        parts = [utterances[0].features.float()]
        if len(utterances) > 1:
            parts = [part for one in utterances for part in (self._pause(one.features.float()), one.features.float())]
        letters = [letter for utterance in utterances for letter in utterance.letters]
        return Utterance(normalize(self._add_noise(torch.cat(parts))), letters)

    def _pause(self, features: torch.Tensor) -> torch.Tensor:
        """Return up to 1.5 s of music, digital silence, or the recording's own quiet frames in random order."""
        frames = int(self._generator.integers(5, 150))
        kind = self._generator.random()
        if kind < 0.1:
            piece = self._music[self._generator.integers(len(self._music))].features
            start = int(self._generator.integers(max(1, len(piece) - frames)))
            return piece[start : start + frames].float() + float(self._generator.uniform(-4, 0))
        if kind < 0.13:
            return torch.full((frames, _MELS), math.log(1.192e-7))
        quiet = features[features.mean(1).argsort()[: max(1, len(features) // 12)]]
        chosen = torch.from_numpy(self._generator.integers(len(quiet), size=frames))
        return quiet[chosen] + 0.3 * self._noise(frames)

    def _add_noise(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features with colored noise, 5 to 40 dB below speech, in half of all cases."""
        if self._generator.random() < 0.5:
            return features
        loud = features.quantile(0.9, dim=0).mean() - float(self._generator.uniform(5, 40)) * math.log(10) / 10
        tilt = torch.linspace(1, -1, _MELS) * float(self._generator.uniform(-1, 3))
        return torch.logaddexp(features, loud + tilt + 0.6 * self._noise(len(features)))

    def _noise(self, frames: int) -> torch.Tensor:
        return torch.from_numpy(self._generator.standard_normal((frames, _MELS), dtype=np.float32))


def singles(speech: dict[str, list[Utterance]], longest: int, generator: np.random.Generator) -> list[list[Utterance]]:
    """Return an epoch of single utterances of up to `longest` frames, in random order."""
    groups = [
        [one]
        for language, repeats in _REPEATS.items()
        for one in speech[language] * repeats
        if len(one.features) <= longest
    ]
    return [groups[index] for index in generator.permutation(len(groups))]


def stretches(speech: dict[str, list[Utterance]], generator: np.random.Generator) -> list[list[Utterance]]:
    """Return an epoch: utterances in random order, grouped to stretches of one language."""
    groups = []
    for language, repeats in _REPEATS.items():
        for _ in range(repeats):
            group: list[Utterance] = []
            frames, limit = 0, generator.integers(*_STRETCH_FRAMES)
            for index in generator.permutation(len(speech[language])):
                utterance = speech[language][index]
                if group and frames + len(utterance.features) > limit:
                    groups.append(group)
                    group, frames, limit = [], 0, generator.integers(*_STRETCH_FRAMES)
                group.append(utterance)
                frames += len(utterance.features) + 75
            groups.append(group)
    return groups


def batches(groups: list[list[Utterance]], mixer: Mixer, generator: np.random.Generator) -> Iterator[list[Utterance]]:
    """Yield batches of mixed stretches of similar length, in random order."""
    groups = sorted(groups, key=lambda group: sum(len(utterance.features) for utterance in group))
    collected: list[list[list[Utterance]]] = [[]]
    for group in groups:
        frames = sum(len(utterance.features) + 75 for utterance in group)
        if frames * (len(collected[-1]) + 1) > _BATCH_FRAMES:
            collected.append([])
        collected[-1].append(group)
    for index in generator.permutation(len(collected)):
        if collected[index]:
            yield [mixer.mix(group) for group in collected[index]]


def collate(mixed: list[Utterance]) -> dict[str, torch.Tensor]:
    """Return the model's inputs; labels are padded with -100 and frames with 0, as the feature extractor does."""
    frames = [len(one.features) // STRIDE for one in mixed]
    inputs = torch.zeros(len(mixed), max(frames), _MELS * STRIDE)
    mask = torch.zeros(len(mixed), max(frames), dtype=torch.long)
    letters = torch.full((len(mixed), max(len(one.letters) for one in mixed)), -100)
    for row, one in enumerate(mixed):
        inputs[row, : frames[row]] = one.features[: frames[row] * STRIDE].reshape(frames[row], -1)
        mask[row, : frames[row]] = 1
        letters[row, : len(one.letters)] = torch.tensor(one.letters)
    return {"input_features": inputs, "attention_mask": mask, "labels": letters}


def new_model() -> Wav2Vec2BertForCTC:
    """Return an untrained model."""
    return Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(
            vocab_size=len(LETTERS) + 2,
            pad_token_id=BLANK,
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=160,
            intermediate_size=480,
            num_hidden_layers=5,
            num_attention_heads=4,
            feature_projection_input_dim=_MELS * STRIDE,
            position_embeddings_type="rotary",
            conv_depthwise_kernel_size=9,
            mask_time_length=5,
            layerdrop=0.0,
            hidden_dropout=0.05,
            activation_dropout=0.0,
            attention_dropout=0.0,
            conformer_conv_dropout=0.0,
            ctc_loss_reduction="mean",
            ctc_zero_infinity=True,
        )
    )


def save(model: Wav2Vec2BertForCTC, output: Path) -> None:
    """Write the model and its processor, so that AutoModelForCTC and AutoProcessor load the folder."""
    vocabulary = output / "letters.json"
    tokens = ["<pad>", "<unk>", *LETTERS]
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(vocabulary), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>", word_delimiter_token=None
    )
    extractor = SeamlessM4TFeatureExtractor(feature_size=_MELS, num_mel_bins=_MELS, stride=STRIDE, padding_value=0.0)
    Wav2Vec2BertProcessor(extractor, tokenizer).save_pretrained(output)
    model.save_pretrained(output)
    vocabulary.unlink()


def error_rate(model: Wav2Vec2BertForCTC, tests: list[Utterance]) -> float:
    """Return the character error rate of a greedy decode of single utterances."""
    model.eval()
    errors = characters = 0
    with torch.inference_mode():
        for one in tests:
            inputs = collate([Utterance(normalize(one.features.float()), one.letters)])
            ids = model(inputs["input_features"], attention_mask=inputs["attention_mask"]).logits[0].argmax(-1)
            wrong, total = character_errors(letters_of(one.letters, collapse=False), letters_of(ids.tolist()))
            errors, characters = errors + wrong, characters + total
    return errors / characters


def train(speech: dict[str, list[Utterance]], output: Path, hours: float, seed: int) -> None:
    """Train a new model until it has heard some hours of speech, and save it to `output`."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    mixer = Mixer(speech["music"], generator)
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start = saved = time.monotonic()
    heard, step, epoch, losses = 0, 0, 0, []
    goal = hours * 3600 * 100
    while heard < goal:
        is_single = heard < _SINGLES_SHARE * goal
        longest = _LONGEST[epoch] if epoch < len(_LONGEST) else 3000
        groups = singles(speech, longest, generator) if is_single else stretches(speech, generator)
        for mixed in batches(groups, mixer, generator):
            if heard >= goal or is_single != (heard < _SINGLES_SHARE * goal):
                break
            for group in optimizer.param_groups:
                group["lr"] = _PEAK_RATE * min(1, (step + 1) / _WARM_UP_STEPS) * max(0.03, 1 - heard / goal)
            model.train()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**collate(mixed)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
            heard += sum(len(one.features) for one in mixed)
            now = time.monotonic()
            if step % 20 == 0:
                mean = np.mean(losses[-20:])
                print(f"{(now - start) / 60:5.1f} min, {heard / 360000:.2f} h heard: loss {mean:.3f}", flush=True)
            if now - saved > _SAVE_EVERY_S or heard >= goal:
                saved = now
                save(model, output)
                report(model, speech, now - start)
        epoch += 1


def report(model: Wav2Vec2BertForCTC, speech: dict[str, list[Utterance]], elapsed_s: float) -> None:
    """Print the character error rates of the recordings that are not trained on."""
    rates = {name: error_rate(model, tests) for name, tests in speech.items() if name.startswith("test-")}
    line = ", ".join(f"CER {name} {rate:.3f}" for name, rate in rates.items())
    print(f"{elapsed_s / 60:5.1f} min: {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, help="Folder of the unpacked packages [OUTPUT/packages].")
    parser.add_argument("--download", action="store_true", help="Fetch missing packages.")
    parser.add_argument("--hours", type=float, default=45, help="Hours of speech to train on [%(default)s].")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    packages = arguments.packages or arguments.output / "packages"
    unpack(packages, (*PACKAGES, "fillets-ng-data-nl", "festvox-ru"), download=arguments.download)
    arguments.output.mkdir(parents=True, exist_ok=True)
    cache = arguments.output / "features.pt"
    if not cache.is_file():
        torch.save({name: [vars(one) for one in many] for name, many in read_speech(packages).items()}, cache)
    speech = {name: [Utterance(**one) for one in many] for name, many in torch.load(cache).items()}
    train(speech, arguments.output, arguments.hours, arguments.seed)


if __name__ == "__main__":
    main()
