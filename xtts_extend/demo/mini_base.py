"""A complete XTTS base directory of any size, with the published one's files and keys: for demos, tests, benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.models.xtts import Xtts

from xtts_extend.demo import texts
from xtts_extend.demo.mini_vocabulary import write_vocabulary
from xtts_extend.errors import ConfigError, VocabularyError

#: Entries of the built-in vocabulary.
VOCABULARY_SIZE = 400
AUDIO_CODES = 1024
#: Log mels of speech lie between -11.5 (silence) and 2; the published file scales each channel by about this much.
UNTRAINED_MEL_SCALE = 5.0


def make_mini_base(
    output: Path,
    *,
    vocab: Path | None = None,
    layers: int = 4,
    channels: int = 128,
    heads: int = 4,
    steps: int = 0,
    seed: int = 0,
) -> Path:
    """Make a base directory (config.json, model.pth, vocab.json, dvae.pth, mel_stats.pth, speakers_xtts.pth).

    `vocab` is the vocabulary to build for; without it a small one for English and Spanish is learned. The same
    arguments give the same weights. `output` appears when it is complete, or not at all.

    Raises:
        ConfigError: `output` exists and is not an empty folder, or sizes that the network cannot have.
        VocabularyError: `vocab` is not an XTTS vocabulary.
    """
    _require_sizes(layers, channels, heads, steps)
    with complete_or_nothing(Path(output)) as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vocab is None:
            corpus = {language: texts.sentences(language, 1500, seed) for language in texts.BASE_LANGUAGES}
            write_vocabulary(corpus, VOCABULARY_SIZE, folder / "vocab.json")
        else:
            shutil.copyfile(vocab, folder / "vocab.json")
        config = mini_config(folder / "vocab.json", layers=layers, channels=channels, heads=heads)
        _write_config(config, folder / "config.json")
        mel_stats = torch.full((80,), UNTRAINED_MEL_SCALE)
        torch.save(mel_stats, folder / "mel_stats.pth")
        torch.save(new_dvae().state_dict(), folder / "dvae.pth")
        xtts = Xtts(config)
        xtts.mel_stats.copy_(mel_stats)
        torch.save({"model": xtts.state_dict()}, folder / "model.pth")
        speaker = {
            "gpt_cond_latent": 0.1 * torch.randn(1, 32, channels),
            "speaker_embedding": torch.nn.functional.normalize(torch.randn(1, 512, 1), dim=1),
        }
        torch.save({"Mini": speaker}, folder / "speakers_xtts.pth")
    return Path(output)


def mini_config(vocab: Path, *, layers: int, channels: int, heads: int) -> XttsConfig:
    """The published XTTS-v2's config with other sizes, for the vocabulary and the languages in `vocab`."""
    try:
        tokenizer = Tokenizer.from_file(str(vocab))
    except Exception as error:
        raise VocabularyError(f"{vocab} is not a `tokenizers` vocabulary: {error}. Give an XTTS vocab.json.") from error
    tokens = tokenizer.get_vocab()
    missing = [token for token in ("[STOP]", "[UNK]", "[SPACE]", "[START]") if token not in tokens]
    if missing:
        raise VocabularyError(f"{vocab} lacks {', '.join(missing)}: it is not an XTTS vocab.json.")
    return XttsConfig(
        model_args=XttsArgs(
            gpt_layers=layers,
            gpt_n_model_channels=channels,
            gpt_n_heads=heads,
            decoder_input_dim=channels,
            gpt_number_text_tokens=max(tokens.values()) + 1,
            gpt_num_audio_tokens=AUDIO_CODES + 2,
            gpt_start_audio_token=AUDIO_CODES,
            gpt_stop_audio_token=AUDIO_CODES + 1,
            gpt_use_perceiver_resampler=True,
        ),
        languages=[
            token[1:-1] for token in sorted(tokens, key=tokens.__getitem__) if re.fullmatch(r"\[[a-z-]+\]", token)
        ],
        temperature=0.75,
        repetition_penalty=5.0,
        gpt_cond_len=30,
        max_ref_len=30,
    )


def _write_config(config: XttsConfig, path: Path) -> None:
    """Write exactly the keys of the published file: what newer releases added is missing there too."""
    values = config.to_dict() | {"model_dir": None}
    for key in ("speakers", "_supports_cloning"):
        values.pop(key, None)
    del values["audio"]["dvae_sample_rate"]
    path.write_text(json.dumps(values, indent=4), encoding="utf-8")


def new_dvae() -> DiscreteVAE:
    """The DVAE with the sizes that coqui's GPTTrainer gives it (they are no part of a config), untrained."""
    return DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=AUDIO_CODES,
        codebook_dim=512,
        hidden_dim=512,
        num_resnet_blocks=3,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )


@contextlib.contextmanager
def complete_or_nothing(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends well, and is removed otherwise."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} exists already. Name another folder, or remove this one first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_sizes(layers: int, channels: int, heads: int, steps: int) -> None:
    if min(layers, channels, heads) < 1 or steps < 0:
        raise ConfigError(f"layers {layers}, channels {channels}, heads {heads}, steps {steps}: too small.")
    if channels % heads or channels % 8:
        raise ConfigError(
            f"{channels} channels with {heads} heads: the channels must be a multiple of the heads and of 8."
        )
