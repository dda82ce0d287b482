"""What a frozen voice side costs a new language: recordings of people, voices that the base has not heard, three seeds.

    python benchmarks/voice_side.py OUTPUT_FOLDER --download [LANGUAGE …]

A mini base that has heard people in six languages (voice_side_data.py) learns Bulgarian (letters that it knows) and
Greek (letters that it does not), with two runs a seed that differ in --voice alone. Measured are the mel loss on
held-out recordings, and how much sentences spoken in unheard voices are like those voices: by the model's own speaker
encoder (of a mini model, untrained) and, where it is installed, by Resemblyzer. The mini vocoder is untrained, so that
the codes are heard through the DVAE and Griffin-Lim, and so are the people that they are compared with. Prints two
tables; what is in the folder already is not made again.
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
#: Sentences that each unheard voice speaks, the longest held-out ones, and the codes that one may have (21.5 a second).
_SENTENCES, _FEWEST_CODES, _MOST_CODES = 4, 22, 130
#: A cost, in shares of the loss and in similarity.
_LOSS_COST, _SIMILARITY_COST = 0.005, 0.01

#: Mono audio (samples,) at `REFERENCE_RATE` → a unit vector.
Judge = Callable[[Tensor], np.ndarray]


@dataclass(frozen=True)
class Heard:
    """Mean cosine with the voice that was asked for, and with the other ones, by each judge."""

    own: dict[str, float]
    others: dict[str, float]


class Ear:
    """Judges, the codec, and the unheard voices as the judges know them."""

    def __init__(self, data: Data) -> None:
        self.voices = data.voices()
        config = config_for_base(data.base)
        self.codec = Codec.load(config)
        self.mel_stats = load_pickled(data.base / "mel_stats.pth", map_location="cpu")
        self._base = load_model(data.base)

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """By name."""
        judges: dict[str, Judge] = {"speaker encoder": self._by_model}
        if VoiceEncoder is None:
            print("Resemblyzer is not installed: similarity by the model's own speaker encoder alone.")
            return judges
        encoder = VoiceEncoder("cpu", verbose=False)

        def by_resemblyzer(audio: Tensor) -> np.ndarray:
            at_16k = torchaudio.functional.resample(audio, REFERENCE_RATE, 16000).numpy()
            return np.asarray(encoder.embed_utterance(preprocess_wav(at_16k)))

        return judges | {"Resemblyzer": by_resemblyzer}

    @torch.inference_mode()
    def _by_model(self, audio: Tensor) -> np.ndarray:
        return self._base.get_speaker_embedding(audio[None], REFERENCE_RATE).flatten().numpy()

    @cached_property
    def known(self) -> dict[str, list[np.ndarray]]:
        """Each judge's vectors of the references, in the order of the voices."""
        references = [
            torch.cat([load_audio(file, REFERENCE_RATE)[0] for file in voice.references]) for voice in self.voices
        ]
        return {name: [judge(audio) for audio in references] for name, judge in self.judges.items()}

    def sound(self, codes: Tensor) -> Tensor:
        """What codes sound like without a vocoder."""
        return codes_to_audio(codes, self.codec.dvae, self.mel_stats)

    def compare(self, spoken: Sequence[tuple[int, Tensor]]) -> Heard:
        """Sentences, each with the number of the voice that it should have."""
        own: dict[str, float] = {}
        others: dict[str, float] = {}
        for name, judge in self.judges.items():
            right, wrong = [], []
            for number, audio in spoken:
                vector = judge(audio)
                cosines = [float(vector @ known) for known in self.known[name]]
                right.append(cosines.pop(number))
                wrong.append(fmean(cosines))
            own[name], others[name] = fmean(right), fmean(wrong)
        return Heard(own, others)

    def people(self) -> dict[str, Heard]:
        """The best that there can be: other recordings of the same people, as they are and through the codec."""
        audios = [
            (number, load_audio(file, REFERENCE_RATE))
            for number, voice in enumerate(self.voices)
            for file in voice.others
        ]
        coded = [(number, self.sound(self.codec.encode(audio))) for number, audio in audios]
        return {
            "people": self.compare([(number, audio[0]) for number, audio in audios]),
            "people, through the codec": self.compare(coded),
        }


@dataclass(frozen=True)
class Run:
    """A language, a seed, and what becomes of the voice side."""

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

    def listen(self, ear: Ear) -> Heard:
        """Every unheard voice speaks the same sentences, in all runs with the same random numbers."""
        noted = self.output / "heard.json"
        if not noted.is_file():
            heard = ear.compare(self._speak(ear.voices, ear.sound))
            noted.write_text(json.dumps([heard.own, heard.others]), encoding="utf-8")
        return Heard(*json.loads(noted.read_text(encoding="utf-8")))

    @torch.inference_mode()
    def _speak(self, voices: Sequence[Voice], sound: Callable[[Tensor], Tensor]) -> list[tuple[int, Tensor]]:
        folder = self.output / "model"
        if not folder.is_dir():
            copy_with(self.data.base, newest_weights(self.output), folder)
            shutil.copyfile(self.data.vocab(self.language), folder / "vocab.json")
        xtts = load_model(folder)
        xtts.gpt.max_gen_mel_tokens = _MOST_CODES
        texts = [sample.text for sample in read_manifests([self.data.manifest(self.language, "val")], self.language)]
        spoken = []
        latents = torch.cat(
            [
                make_voice(xtts, [load_audio(file, REFERENCE_RATE) for file in voice.references]).latents
                for voice in voices
            ]
        )
        for place, text in enumerate(sorted(texts, key=len)[-_SENTENCES:]):
            torch.manual_seed(place)
            tokens = torch.tensor([xtts.tokenizer.encode(text, self.language)] * len(voices))
            codes = xtts.gpt.generate(
                cond_latents=latents,
                text_inputs=tokens,
                do_sample=True,
                top_k=50,
                top_p=0.85,
                temperature=0.75,
                min_new_tokens=_FEWEST_CODES,
            )
            spoken += [(number, sound(row[row < AUDIO_CODES])) for number, row in enumerate(codes)]
        shutil.rmtree(folder)
        return spoken


def shown(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation over the seeds; of one value, itself."""
    spread = f" ± {pstdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def compared(language: str, what: str, values: dict[str, list[float]], *, relative: bool) -> list[str]:
    """A row: frozen, trained, what freezing costs, seed by seed, and whether that is a cost."""
    frozen, trained = (values[side] for side in SIDES)
    if relative:
        costs = [100 * (one / other - 1) for one, other in zip(frozen, trained, strict=True)]
        cost, limit = f"{fmean(costs):+.2f} % ± {pstdev(costs):.2f}", 100 * _LOSS_COST
    else:
        costs = [other - one for one, other in zip(frozen, trained, strict=True)]
        cost, limit = f"{fmean(costs):+.4f} ± {pstdev(costs):.4f}", _SIMILARITY_COST
    verdict = "a cost" if fmean(costs) > limit else "no cost"
    return [language, what, shown(frozen), shown(trained), cost, verdict]


def similarities(name: str, heard: Sequence[Heard]) -> list[str]:
    """A row: by each judge, with the voice that was asked for and with the others."""
    cells = [
        shown([values[judge] for values in which])
        for judge in heard[0].own
        for which in ([one.own for one in heard], [one.others for one in heard])
    ]
    return [name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="of bg and el [both]")
    parser.add_argument("--download", action="store_true", help="fetch the packages with apt-get, 360 MB")
    args = parser.parse_args()
    languages = args.languages or list(NEW)
    if unknown := set(languages) - set(NEW):
        sys.exit(f"There are no recordings for {', '.join(sorted(unknown))}. Give {' or '.join(NEW)}.")
    torch.set_num_threads(1)
    data = Data(args.output.absolute())
    data.prepare(languages, download=args.download)
    ear = Ear(data)
    rows = [["language", "", *SIDES, "cost of frozen", "verdict"]]
    references = [
        ["similarity with", *(f"{judge}: {which}" for judge in ear.judges for which in ("own voice", "others"))]
    ]
    references += [similarities(name, [heard]) for name, heard in ear.people().items()]
    for language in languages:
        runs = {side: [Run(data, language, seed, side) for seed in SEEDS] for side in SIDES}
        for seed in range(len(SEEDS)):
            for side in SIDES:
                run = runs[side][seed]
                run.train()
                print(f"{language}, seed {run.seed}, {side}: {run.losses[1]:.4f}, {run.listen(ear)}", flush=True)
        starts = fmean(run.losses[0] for run in runs["frozen"])
        losses = {side: [run.losses[1] for run in runs[side]] for side in SIDES}
        rows.append(compared(language, f"mel loss (from {starts:.3f})", losses, relative=True))
        heard = {side: [run.listen(ear) for run in runs[side]] for side in SIDES}
        for judge in ear.judges:
            own = {side: [one.own[judge] for one in heard[side]] for side in SIDES}
            rows.append(compared(language, f"similarity, {judge}", own, relative=False))
        references += [similarities(f"{language}, {side}", heard[side]) for side in SIDES]
    print(f"\n{table(rows)}\n\n{table(references)}")


if __name__ == "__main__":
    main()
