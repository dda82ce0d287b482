"""Whisper's encoder with a CTC output, as a stand-in for MMS, and a way to run our commands with it.

    python benchmarks/whisper_ctc.py make-dataset … --aligner FOLDER

transformers knows no Whisper with a CTC output, so this script registers one, and then runs xtts-extend.
benchmarks/train_whisper_ctc.py trains the model and writes FOLDER.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel

import xtts_extend.cli

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
BLANK, UNKNOWN = 0, 1


class WhisperCtcConfig(WhisperConfig):
    """Whisper's configuration; `vocab_size` is the number of letters."""

    model_type = "whisper_ctc"


class WhisperCtcExtractor(WhisperFeatureExtractor):
    """Whisper's spectrograms without the silence up to 30 s."""

    def __call__(self, audio: Any, **options: Any) -> Any:
        """Return features [batch, mels, frames]."""
        return super().__call__(audio, **{"padding": "longest", "truncation": False, **options})


class WhisperForCTC(WhisperPreTrainedModel):
    """Whisper's encoder and a linear layer."""

    config_class = WhisperCtcConfig

    def __init__(self, config: WhisperCtcConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    def forward(self, input_features: torch.Tensor) -> CausalLMOutput:
        """Return logits [batch, frames / 2, letters]; spectrograms have 3,000 frames at most."""
        return CausalLMOutput(logits=self.lm_head(self.encode(input_features)))

    def encode(self, input_features: torch.Tensor) -> torch.Tensor:
        """Return the encoder's outputs [batch, frames / 2, width]."""
        frames = input_features.shape[-1]
        # Whisper heard every recording followed by silence, up to 30 s.
        silence = input_features.amax((1, 2), keepdim=True) - 2
        padded = torch.cat([input_features, silence.expand(-1, input_features.shape[1], 3000 - frames)], dim=-1)
        hidden: torch.Tensor = self.encoder(padded).last_hidden_state
        return hidden[:, : frames // 2]


def register() -> None:
    """Tell transformers about the model."""
    AutoConfig.register("whisper_ctc", WhisperCtcConfig)
    AutoFeatureExtractor.register(WhisperCtcConfig, WhisperCtcExtractor)
    AutoTokenizer.register(WhisperCtcConfig, slow_tokenizer_class=Wav2Vec2CTCTokenizer)
    AutoModelForCTC.register(WhisperCtcConfig, WhisperForCTC)


def read_ctranslate2(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a model in CTranslate2's format (its source: python/ctranslate2/specs/model_spec.py)."""
    data = file.read_bytes()
    position = 4

    def number(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{code}", data, position)
        position += struct.calcsize(code)
        return int(value)

    def string() -> str:
        nonlocal position
        length = number("H")
        position += length
        return data[position - length : position - 1].decode()

    string()  # The kind of model.
    number("I")  # Its revision.
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    tensors = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = types[number("B")], number("I")
        values = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, position).reshape(shape)
        tensors[name] = torch.from_numpy(values.astype(np.float32))
        position += size
    return tensors


def encoder_weights(tensors: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Return the weights of Whisper's encoder by their names in transformers."""
    weights = {"embed_positions.weight": tensors["encoder/position_encodings/encodings"]}

    def copy(theirs: str, ours: str, names: dict[str, str]) -> None:
        weights.update({f"{ours}.{new}": tensors[f"encoder/{theirs}/{old}"] for old, new in names.items()})

    linear, norm = {"weight": "weight", "bias": "bias"}, {"gamma": "weight", "beta": "bias"}
    copy("conv1", "conv1", linear)
    copy("conv2", "conv2", linear)
    copy("layer_norm", "layer_norm", norm)
    layer = 0
    while f"encoder/layer_{layer}/ffn/linear_0/weight" in tensors:
        theirs, ours = f"layer_{layer}", f"layers.{layer}"
        copy(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", norm)
        copy(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj", linear)
        copy(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm", norm)
        copy(f"{theirs}/ffn/linear_0", f"{ours}.fc1", linear)
        copy(f"{theirs}/ffn/linear_1", f"{ours}.fc2", linear)
        for kind in ("weight", "bias"):
            query, key, value = tensors[f"encoder/{theirs}/self_attention/linear_0/{kind}"].split(width)
            weights[f"{ours}.self_attn.q_proj.{kind}"] = query
            weights[f"{ours}.self_attn.v_proj.{kind}"] = value
            if kind == "weight":
                weights[f"{ours}.self_attn.k_proj.{kind}"] = key
        layer += 1
    return weights


def new_model(whisper: Path) -> WhisperForCTC:
    """Return Whisper's encoder with an untrained output."""
    tensors = read_ctranslate2(whisper / "model.bin")
    width, mels = tensors["encoder/conv1/weight"].shape[:2]
    layers = sum(name.endswith("ffn/linear_0/weight") for name in tensors if name.startswith("encoder/"))
    config = WhisperCtcConfig(
        vocab_size=len(LETTERS) + 2,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        pad_token_id=BLANK,
        bos_token_id=None,
        eos_token_id=None,
        decoder_start_token_id=BLANK,
    )
    model = WhisperForCTC(config)
    model.encoder.load_state_dict(encoder_weights(tensors, width))
    return model


def save(model: WhisperForCTC, extractor: WhisperCtcExtractor, output: Path) -> None:
    """Write the model, so that AutoModelForCTC loads the folder once the model is registered."""
    vocabulary = output / "letters.json"
    tokens = ["<pad>", "<unk>", *LETTERS]
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(vocabulary), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>", word_delimiter_token=None
    )
    tokenizer.save_pretrained(output)
    extractor.save_pretrained(output)
    model.save_pretrained(output)
    vocabulary.unlink()


def main() -> int:
    """Run an xtts-extend command."""
    register()
    return xtts_extend.cli.main()


if __name__ == "__main__":
    sys.exit(main())
