"""Measure what freezing the voice side costs a new language, with human speech, unseen voices and three seeds.

    python benchmarks/voice_side.py OUTPUT_FOLDER --download [LANGUAGE …]

A mini base that was trained on human speech in six languages (voice_side_data.py) learns Bulgarian (known letters) and
Greek (new letters), with two runs per seed that differ only in --voice. The measures are the mel loss on held-out
recordings, and the similarity of sentences spoken in unseen voices to these voices, by the model's own speaker encoder
(untrained, as it is a mini model's) and by Resemblyzer if it is installed. The mini vocoder is untrained, so the codes
are turned into audio with the DVAE and Griffin-Lim, as are the recordings that they are compared with. Prints two
tables. Files in the folder are reused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import torch
import torchaudio
from mini_runs import table
from retention_data import copy_with, newest_weights, only_run, run_recipe
from torch import Tensor
from voice_side_data import NEW, SLICES, Data, Voice

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.demo.griffin_lim import codes_to_audio
from xtts_extend.demo.mini_base import AUDIO_CODES
from xtts_extend.model.codec import Codec
from xtts_extend.model.voice import REFERENCE_RATE, make_voice
from xtts_extend.run.metrics import read_metrics
from xtts_extend.setup.base import config_for_base
from xtts_extend.speech.speaking import load_model

try:
    from resemblyzer import VoiceEncoder, preprocess_wav
except ModuleNotFoundError:
    VoiceEncoder = None

SEEDS = (1, 2, 3)
SIDES = ("frozen", "trained")
STEPS, RATE = 200, 5e-4
#: Number of held-out sentences (the longest) that each unseen voice speaks, and codes per sentence (21.5 per second).
_SENTENCES, _MIN_CODES, _MAX_CODES = 4, 22, 130
#: Smallest differences that count as a cost: share of the loss, and similarity.
_LOSS_COST, _SIMILARITY_COST = 0.005, 0.01

#: Speaker encoder: mono audio, [samples] at `REFERENCE_RATE`, → unit vector.
SpeakerEncoder = Callable[[Tensor], np.ndarray]


@dataclass(frozen=True)
class Similarity:
    """Mean cosine similarity to the requested voice and to the other voices, by speaker encoder."""

    own: dict[str, float]
    others: dict[str, float]


class Listener:
    """The speaker encoders, the codec, and the embeddings of the unseen voices."""

    def __init__(self, data: Data) -> None:
        self.voices = data.voices()
        config = config_for_base(data.base)
        self.codec = Codec.load(config)
        self.mel_stats = load_pickled(data.base / "mel_stats.pth", map_location="cpu")
        self._base = load_model(data.base)

    @cached_property
    def encoders(self) -> dict[str, SpeakerEncoder]:
        """The speaker encoders by name."""
        encoders: dict[str, SpeakerEncoder] = {"speaker encoder": self._embed_with_model}
        if VoiceEncoder is None:
            print("Resemblyzer is not installed. Only the model's own speaker encoder measures similarity.")
            return encoders
        encoder = VoiceEncoder("cpu", verbose=False)

        def embed_with_resemblyzer(audio: Tensor) -> np.ndarray:
            at_16k = torchaudio.functional.resample(audio, REFERENCE_RATE, 16000).numpy()
            return np.asarray(encoder.embed_utterance(preprocess_wav(at_16k)))

        return encoders | {"Resemblyzer": embed_with_resemblyzer}

    @torch.inference_mode()
    def _embed_with_model(self, audio: Tensor) -> np.ndarray:
        return self._base.get_speaker_embedding(audio[None], REFERENCE_RATE).flatten().numpy()

    @cached_property
    def references(self) -> dict[str, list[np.ndarray]]:
        """The embeddings of the reference recordings by speaker encoder, in the order of the voices."""
        audios = [
            torch.cat([load_audio(file, REFERENCE_RATE)[0] for file in voice.references]) for voice in self.voices
        ]
        return {name: [embed(audio) for audio in audios] for name, embed in self.encoders.items()}

    def decode(self, codes: Tensor) -> Tensor:
        """Return the audio of codes, decoded without a vocoder."""
        return codes_to_audio(codes, self.codec.dvae, self.mel_stats)

    def compare(self, spoken: Sequence[tuple[int, Tensor]]) -> Similarity:
        """Return the similarity of sentences to the voices; each sentence comes with the index of its voice."""
        own: dict[str, float] = {}
        others: dict[str, float] = {}
        for name, embed in self.encoders.items():
            to_own, to_others = [], []
            for index, audio in spoken:
                embedding = embed(audio)
                cosines = [float(embedding @ reference) for reference in self.references[name]]
                to_own.append(cosines.pop(index))
                to_others.append(fmean(cosines))
            own[name], others[name] = fmean(to_own), fmean(to_others)
        return Similarity(own, others)

    def upper_bounds(self) -> dict[str, Similarity]:
        """Return the similarity of other recordings of the same people, unchanged and passed through the codec."""
        audios = [
            (number, load_audio(file, REFERENCE_RATE))
            for number, voice in enumerate(self.voices)
            for file in voice.others
        ]
        coded = [(number, self.decode(self.codec.encode(audio))) for number, audio in audios]
        return {
            "people": self.compare([(number, audio[0]) for number, audio in audios]),
            "people, through the codec": self.compare(coded),
        }


@dataclass(frozen=True)
class Run:
    """A run with one language and seed, and the voice side frozen or trained."""

    data: Data
    language: str
    seed: int
    side: str

    @property
    def output(self) -> Path:
        return self.data.folder / "runs" / f"{self.language}-{self.seed}-{self.side}"

    def train(self) -> None:
        data, language = self.data, self.language
        run_recipe(
            self.output,
            [
                f"--base-dir={data.base}", f"--codes={data.codes}", f"--vocab={data.vocab(language)}",
                f"--language={language}", f"--train-manifest={data.manifest(language, 'train')}",
                f"--val-manifest={data.manifest(language, 'val')}", f"--voice={self.side}", f"--seed={self.seed}",
                f"--max-steps={STEPS}", f"--eval-step={STEPS}", f"--learning-rate={RATE}", "--batch-size=4",
                "--coqpit.eval_batch_size=12", "--grad-accum-steps=1", "--grad-clip=1", "--amp=none",
                "--coqpit.print_step=50", *SLICES,
            ],
        )  # fmt: skip

    @property
    def losses(self) -> tuple[float, float]:
        """Mel loss before the first step and after the last one."""
        lines = read_metrics(only_run(self.output))[1]
        return lines[0]["loss_mel_ce"], lines[-1]["loss_mel_ce"]

    def similarity(self, listener: Listener) -> Similarity:
        """Return the similarity of sentences in all unseen voices, spoken with the same random numbers in all runs."""
        cache = self.output / "heard.json"
        if not cache.is_file():
            result = listener.compare(self._speak(listener.voices, listener.decode))
            cache.write_text(json.dumps([result.own, result.others]), encoding="utf-8")
        return Similarity(*json.loads(cache.read_text(encoding="utf-8")))

    @torch.inference_mode()
    def _speak(self, voices: Sequence[Voice], decode: Callable[[Tensor], Tensor]) -> list[tuple[int, Tensor]]:
        folder = self.output / "model"
        if not folder.is_dir():
            copy_with(self.data.base, newest_weights(self.output), folder)
            shutil.copyfile(self.data.vocab(self.language), folder / "vocab.json")
        xtts = load_model(folder)
        xtts.gpt.max_gen_mel_tokens = _MAX_CODES
        texts = [sample.text for sample in read_manifests([self.data.manifest(self.language, "val")], self.language)]
        spoken = []
        latents = torch.cat(
            [
                make_voice(xtts, [load_audio(file, REFERENCE_RATE) for file in voice.references]).latents
                for voice in voices
            ]
        )
        for seed, text in enumerate(sorted(texts, key=len)[-_SENTENCES:]):
            torch.manual_seed(seed)
            tokens = torch.tensor([xtts.tokenizer.encode(text, self.language)] * len(voices))
            codes = xtts.gpt.generate(
                cond_latents=latents,
                text_inputs=tokens,
                do_sample=True,
                top_k=50,
                top_p=0.85,
                temperature=0.75,
                min_new_tokens=_MIN_CODES,
            )
            spoken += [(index, decode(row[row < AUDIO_CODES])) for index, row in enumerate(codes)]
        shutil.rmtree(folder)
        return spoken


def mean_and_spread(values: Sequence[float], digits: int = 4) -> str:
    """Return the mean ± standard deviation over the seeds as text, or a single value alone."""
    spread = f" ± {pstdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def cost_row(language: str, measure: str, values: dict[str, list[float]], *, relative: bool) -> list[str]:
    """Return a table row: the values frozen and trained, the cost of freezing over the seeds, and a verdict."""
    frozen, trained = (values[side] for side in SIDES)
    if relative:
        costs = [100 * (loss / other - 1) for loss, other in zip(frozen, trained, strict=True)]
        cost, limit = f"{fmean(costs):+.2f} % ± {pstdev(costs):.2f}", 100 * _LOSS_COST
    else:
        costs = [other - value for value, other in zip(frozen, trained, strict=True)]
        cost, limit = f"{fmean(costs):+.4f} ± {pstdev(costs):.4f}", _SIMILARITY_COST
    verdict = "a cost" if fmean(costs) > limit else "no cost"
    return [language, measure, mean_and_spread(frozen), mean_and_spread(trained), cost, verdict]


def similarity_row(name: str, results: Sequence[Similarity]) -> list[str]:
    """Return a table row: by each speaker encoder, the similarity to the requested voice and to the others."""
    cells = [
        mean_and_spread([values[encoder] for values in column])
        for encoder in results[0].own
        for column in ([result.own for result in results], [result.others for result in results])
    ]
    return [name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="bg or el. [both]")
    parser.add_argument("--download", action="store_true", help="Fetch the packages with apt-get (360 MB).")
    args = parser.parse_args()
    languages = args.languages or list(NEW)
    if unknown := set(languages) - set(NEW):
        sys.exit(f"There are no recordings for {', '.join(sorted(unknown))}. Pass {' or '.join(NEW)}.")
    torch.set_num_threads(1)
    data = Data(args.output.absolute())
    data.prepare(languages, download=args.download)
    listener = Listener(data)
    rows = [["language", "", *SIDES, "cost of frozen", "verdict"]]
    references = [
        [
            "similarity to",
            *(f"{encoder}: {column}" for encoder in listener.encoders for column in ("own voice", "others")),
        ]
    ]
    references += [similarity_row(name, [result]) for name, result in listener.upper_bounds().items()]
    for language in languages:
        runs = {side: [Run(data, language, seed, side) for seed in SEEDS] for side in SIDES}
        for seed in range(len(SEEDS)):
            for side in SIDES:
                run = runs[side][seed]
                run.train()
                print(
                    f"{language}, seed {run.seed}, {side}: {run.losses[1]:.4f}, {run.similarity(listener)}", flush=True
                )
        starts = fmean(run.losses[0] for run in runs["frozen"])
        losses = {side: [run.losses[1] for run in runs[side]] for side in SIDES}
        rows.append(cost_row(language, f"mel loss (from {starts:.3f})", losses, relative=True))
        results = {side: [run.similarity(listener) for run in runs[side]] for side in SIDES}
        for encoder in listener.encoders:
            own = {side: [result.own[encoder] for result in results[side]] for side in SIDES}
            rows.append(cost_row(language, f"similarity, {encoder}", own, relative=False))
        references += [similarity_row(f"{language}, {side}", results[side]) for side in SIDES]
    print(f"\n{table(rows)}\n\n{table(references)}")


if __name__ == "__main__":
    main()
