"""coqui's `GPTTrainer` with a vocabulary that grew: base weights in, new rows, frozen old rows, stock state out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import FrozenRowsEmbedding, FrozenRowsLinear

# coqui's XTTS dataset module, which this import runs, sets torch to one thread for the whole process
_threads = torch.get_num_threads()
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer  # noqa: E402

torch.set_num_threads(_threads)

logger = logging.getLogger("trainer")

#: Parts of the model that only training needs and that never train: they come from the base directory every time.
_NEVER_TRAINED = ("dvae.", "torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.")
#: The transformer once more, under the names that it has while speaking; some published files hold both.
_INFERENCE_COPIES = ("gpt.gpt_inference.", "gpt.gpt.wte.")


def xtts_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `Xtts` in a base file's or a training checkpoint's state dict, under the names of `Xtts`.

    What only training needs is left out, and the second copy of the transformer in files of early releases.
    """
    weights = {}
    for key, tensor in state.items():
        name = key.removeprefix("xtts.")
        if not key.startswith(_NEVER_TRAINED) and not name.startswith(_INFERENCE_COPIES):
            weights[name] = tensor
    return weights


def row_digests(state: Mapping[str, Tensor], rows: int, prefix: str = "gpt.") -> dict[str, str]:
    """SHA-256 of the first `rows` rows of each token tensor, as float32: tells whether old rows are the base's."""
    return {
        name: hashlib.sha256(state[prefix + name][:rows].float().contiguous().numpy().tobytes()).hexdigest()
        for name in TOKEN_TENSORS
    }


def target_counts(batch: Mapping[str, Any], gpt: Any) -> list[float]:
    """How many text and how many audio targets the losses of a batch are means of, as `GPT.forward` masks them.

    Args:
        batch: formatted; `GPT.forward` has not seen it yet (it changes `cond_idxs`).
        gpt: coqui's `GPT`.
    """
    # a stop token each; three codes, and a stop token
    text = float((batch["text_lengths"] + 1).sum())
    code_lengths = torch.ceil(batch["wav_lengths"] / gpt.code_stride_len).long() + 3
    audio = float((code_lengths + 1).sum())
    if batch["cond_idxs"] is not None:
        # coqui masks the prompt of the last sample only
        compression = gpt.perceiver_cond_length_compression if gpt.use_perceiver_resampler else gpt.code_stride_len
        start, end = (int(index) // compression for index in batch["cond_idxs"][-1])
        last = int(code_lengths[-1]) + 1
        audio -= max(0, min(end, last) - start)
    return [text, audio]


class ExtendedGPTTrainer(GPTTrainer):
    """`GPTTrainer` that takes a base with a smaller vocabulary and can freeze the rows of old tokens.

    Args:
        config: a `GPTTrainerConfig` whose `model_args` name the vocabulary (`tokenizer_file`), `dvae_checkpoint` and
            `mel_norm_file`; the architecture is the base's.

    Raises:
        ConfigError: `model_args` load weights themselves (`xtts_checkpoint`, `gpt_checkpoint`).
    """

    def __init__(self, config: Any) -> None:
        for key in ("xtts_checkpoint", "gpt_checkpoint"):
            if getattr(config.model_args, key):
                raise ConfigError(
                    f"model_args.{key} is set to {getattr(config.model_args, key)}: weights are loaded by load_base() "
                    "or by the trainer's restore_path. Leave it empty."
                )
        # unknown until the tokenizer is there: otherwise coqui builds the GPT twice
        config.model_args.gpt_number_text_tokens = None
        super().__init__(config)
        self.base_rows = self.vocab_size
        self.base_digests: dict[str, str] = {}
        self.rows_frozen = False

    @property
    def vocab_size(self) -> int:
        """Number of token rows: the highest id of the vocabulary plus one."""
        return int(self.xtts.gpt.number_text_tokens)

    def load_base(self, weights: Mapping[str, Tensor], base_rows: int) -> None:
        """Load a base's weights, its token tensors already grown to this vocabulary (`extend_token_tensors`).

        Args:
            weights: as `xtts_weights` returns them.
            base_rows: how many of the token rows are the base's.

        Raises:
            CheckpointError: a tensor is missing, left over, or of another shape; each is named.
        """
        self._require_same_tensors(self.xtts.state_dict(), weights, "base model")
        self.xtts.load_state_dict(weights)
        self.base_rows = base_rows
        self.base_digests = row_digests(weights, base_rows)

    def freeze_base_rows(self) -> None:
        """Freeze the base's rows of the text embedding and the text head; nothing to do without new tokens.

        The optimizer has to be made after this: it sees only the new rows.
        """
        if self.rows_frozen or self.base_rows >= self.vocab_size:
            return
        gpt = self.xtts.gpt
        gpt.text_embedding = FrozenRowsEmbedding(gpt.text_embedding, self.base_rows)
        gpt.text_head = FrozenRowsLinear(gpt.text_head, self.base_rows)
        self.rows_frozen = True

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The stock state dict without what never trains and is not needed to load the model elsewhere."""
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith(_NEVER_TRAINED)}

    def restore_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a training checkpoint's model, ours or the stock Trainer's, and check that every tensor arrived.

        Raises:
            CheckpointError: a tensor is missing, left over, or of another shape; each is named.
        """
        own = self.state_dict()
        # ours does not hold them; the stock Trainer's does
        absent = {key: tensor for key, tensor in own.items() if key.startswith(_NEVER_TRAINED) and key not in state}
        self._require_same_tensors(own, {**absent, **state}, "checkpoint")
        self.load_state_dict({**absent, **state})
        arrived = self.state_dict()
        wrong = [key for key, tensor in state.items() if not torch.equal(arrived[key].cpu(), tensor)]
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} tensors differ from the checkpoint's after loading: {', '.join(wrong[:10])}. "
                "The file or the memory is damaged, or a value is not a number; use an earlier checkpoint."
            )

    @staticmethod
    def _require_same_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
        problems = [f"missing: {key}" for key in expected if key not in found]
        problems += [f"left over: {key}" for key in found if key not in expected]
        problems += [
            f"{key}: {tuple(found[key].shape)} in the file, {tuple(tensor.shape)} expected"
            for key, tensor in expected.items()
            if key in found and found[key].shape != tensor.shape
        ]
        if problems:
            more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise CheckpointError(
                f"The {what} does not fit the configuration and the vocabulary ({len(problems)} tensors):\n  "
                + "\n  ".join(problems[:10])
                + more
                + "\nTake the config.json and the vocab.json that belong to these weights."
            )

    def describe_rows(self, init: str) -> str:
        """What the log says at the start about old and new tokens and about frozen parameters."""
        new = self.vocab_size - self.base_rows
        trained = sum(parameter.numel() for parameter in self.xtts.gpt.parameters())
        frozen = sum(
            getattr(module, f"base_{name}").numel()
            for module in (self.xtts.gpt.text_embedding, self.xtts.gpt.text_head)
            if self.rows_frozen
            for name in module.names
        )
        lines = [f"base tokens 0–{self.base_rows - 1} (pretrained{', frozen' if self.rows_frozen else ''})"]
        if new:
            lines.append(f"new tokens {self.base_rows}–{self.vocab_size - 1} ({new}, {init})")
        lines.append(f"{frozen:,} of {trained + frozen:,} parameters of the GPT are frozen")
        return "\n".join(f" > {line}" for line in lines)
