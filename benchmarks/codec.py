"""Measure how many words a mini base's codec keeps: the character error rate of Whisper on resynthesized speech.

    WHISPER_FOLDER=FOLDER python benchmarks/codec.py OUTPUT_FOLDER [--sentences N]

Speaks the mini base's training sentences and N other ones of English and Spanish with espeak-ng, makes two DVAEs from
the training speech, and prints what Whisper hears in the other sentences: as espeak-ng spoke them, from their mel
spectrograms through Griffin-Lim, and from their codes through each DVAE's decoder and Griffin-Lim. The DVAEs are
those of `make-mini-base` with --quality standard and --quality high. FOLDER is described in
benchmarks/whisper_words.py. Files in the output folder are reused.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mini_runs import table
from torch import Tensor
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from whisper_words import recognize

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.demo import texts
from xtts_extend.demo.griffin_lim import codes_to_audio, mels_to_audio
from xtts_extend.demo.mini_base import AUDIO_CODES, SENTENCES, Quality, make_codes
from xtts_extend.demo.speech import SAMPLE_RATE, make_corpus
from xtts_extend.files import atomic_write
from xtts_extend.model.codec import make_dvae
from xtts_extend.speech.recognition import character_errors

#: A function from a recording, float32 (1, samples), to audio, float32 (samples,).
Way = Callable[[Tensor], Tensor]
_SPECTROGRAM = TorchMelSpectrogram(mel_norm_file=None, sampling_rate=SAMPLE_RATE)


@dataclass(frozen=True)
class Utterance:
    """A recording that no DVAE was made from, float32 (1, samples), and its text."""

    audio: Tensor
    text: str


@dataclass(frozen=True)
class MadeDvae:
    """A DVAE, the mel statistics [80], and what making it took."""

    dvae: DiscreteVAE
    mel_stats: Tensor
    cpu_s: float

    def resynthesize(self, audio: Tensor) -> Tensor:
        """Return the audio of a recording's codes."""
        mels = _SPECTROGRAM(audio) / self.mel_stats[:, None]
        return codes_to_audio(self.dvae.get_codebook_indices(mels)[0], self.dvae, self.mel_stats)


def speak(folder: Path, sentences: int) -> tuple[list[Path], dict[str, list[Utterance]]]:
    """Return the recordings for training, and by language the utterances to judge."""
    training: list[Path] = []
    unseen: dict[str, list[Utterance]] = {}
    for language in texts.BASE_LANGUAGES:
        spoken = texts.sentences(language, SENTENCES + sentences)
        folders = {
            folder / f"{language}-training": spoken[:SENTENCES],
            folder / f"{language}-unseen-{sentences}": spoken[SENTENCES:],
        }
        manifests = [
            make_corpus(lines, language, place) if not (place / "metadata.csv").is_file() else place / "metadata.csv"
            for place, lines in folders.items()
        ]
        training += sorted((manifests[0].parent / "wavs").iterdir())
        unseen[language] = [
            Utterance(load_audio(Path(sample.audio_file), SAMPLE_RATE), sample.text)
            for sample in read_manifests([str(manifests[1])], language)
        ]
    return training, unseen


def make(folder: Path, training: Sequence[Path], quality: Quality) -> MadeDvae:
    """Make a DVAE from recordings as `make_mini_base` does, or read the one that an earlier run made."""
    file = folder / f"dvae-{quality.value}.pth"
    torch.manual_seed(0)
    dvae = make_dvae(AUDIO_CODES)
    if not file.is_file():
        start = time.process_time()
        mel_stats = make_codes(dvae, training, quality, seed=0)
        made = {"dvae": dvae.state_dict(), "mel_stats": mel_stats, "cpu_s": time.process_time() - start}
        with atomic_write(file) as opened:
            torch.save(made, opened)
    made = load_pickled(file, map_location="cpu")
    dvae.load_state_dict(made["dvae"])
    return MadeDvae(dvae.eval(), made["mel_stats"], made["cpu_s"])


def error_rate(way: Way, utterances: Sequence[Utterance], language: str) -> float:
    """Return the character error rate of what Whisper hears after a way."""
    counts = [
        character_errors(utterance.text, recognize(way(utterance.audio).numpy(), SAMPLE_RATE, language))
        for utterance in utterances
    ]
    return sum(wrong for wrong, _ in counts) / sum(characters for _, characters in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--sentences", type=int, default=60, help="Sentences per language to judge. [60]")
    args = parser.parse_args()
    training, unseen = speak(args.output, args.sentences)
    ways: dict[str, tuple[Way, str]] = {
        "espeak-ng's recording": (lambda audio: audio[0], ""),
        "its mel spectrogram": (lambda audio: mels_to_audio(_SPECTROGRAM(audio)[0]), ""),
    }
    for quality in Quality:
        made = make(args.output, training, quality)
        ways[f"its codes, {quality.value} quality"] = (made.resynthesize, f"{made.cpu_s:.0f}")
    rows = [["speech", *(f"CER {language}" for language in unseen), "CPU seconds to make the DVAE"]]
    for name, (way, cpu_s) in ways.items():
        rates = (error_rate(way, utterances, language) for language, utterances in unseen.items())
        rows.append([name, *(f"{rate:.3f}" for rate in rates), cpu_s])
        print(*rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
