"""coqui's `GPTTrainer` for an extended vocabulary. It loads a base, freezes old rows and returns stock state dicts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trainer.trainer_utils import get_optimizer
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.checkpoint.store import adapter_tensors
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.adapter import add_adapter, is_adapter, merge, plain_name
from xtts_extend.model.anchor import Anchor
from xtts_extend.model.blank import build_xtts
from xtts_extend.model.codec import Codec, make_style_spectrogram
from xtts_extend.model.coqui_trainer import GPTTrainer
from xtts_extend.model.distillation import Replayed, Teacher, divergence
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.forward import Layout, forward
from xtts_extend.model.frozen_rows import BaseRows, FrozenRowsEmbedding, FrozenRowsLinear
from xtts_extend.model.kernels import use_fast_kernels
from xtts_extend.model.learning_rates import configured_groups
from xtts_extend.model.voice import freeze_voice, voice_parameters
from xtts_extend.text.vocabulary import coqui_vocabulary_path

logger = logging.getLogger("trainer")

#: Prefixes of the modules that only training needs and that are never trained. They are always loaded from the base.
_NEVER_TRAINED = ("dvae.", "torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.")
#: Torch optimizers that have a fused implementation.
_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
#: Optimizer options that rule out the fused implementation.
_UNFUSED_OPTIONS = {"foreach", "differentiable"}
#: Prefixes of a second copy of the transformer, used for inference, that some published files contain.
_INFERENCE_COPIES = ("gpt.gpt_inference.", "gpt.gpt.wte.")


def xtts_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `Xtts`, under its tensor names, from the state dict of a base file or training checkpoint.

    Tensors that only training needs are omitted, and so is the second copy of the transformer in early releases' files.
    Half-precision weights are converted to float32, which training, comparison and inference use.
    """
    weights = {}
    for key, tensor in state.items():
        name = key.removeprefix("xtts.")
        if not key.startswith(_NEVER_TRAINED) and not name.startswith(_INFERENCE_COPIES):
            weights[name] = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return weights


def merged_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of `Xtts` from a loaded base file or checkpoint, with its adapter merged into them."""
    return merge(xtts_weights(content.get("model", content)), adapter_tensors(content))


def row_digests(state: Mapping[str, Tensor], rows: int, prefix: str = "gpt.") -> dict[str, str]:
    """Return the SHA-256 of each token tensor's first `rows` rows in float32, for comparison with the base's."""
    return {
        name: hashlib.sha256(state[prefix + name][:rows].float().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name in TOKEN_TENSORS
    }


class ExtendedGPTTrainer(GPTTrainer):
    """A `GPTTrainer` that loads a base with a smaller vocabulary and can freeze the rows of old tokens.

    It has no weights until `load_base` or `restore_state` is called.

    Args:
        config: A `GPTTrainerConfig` with the base's architecture, whose `model_args` name the vocabulary
            (`tokenizer_file`), `dvae_checkpoint` and `mel_norm_file`.

    Raises:
        ConfigError: `model_args` sets `xtts_checkpoint` or `gpt_checkpoint`, which would make coqui load weights
            itself.
    """

    def __init__(self, config: Any) -> None:
        for key in ("xtts_checkpoint", "gpt_checkpoint"):
            if getattr(config.model_args, key):
                raise ConfigError(
                    f"model_args.{key} is {getattr(config.model_args, key)}; expected no value, because load_base() or "
                    "the trainer's restore_path loads the weights. Leave it empty."
                )
        # coqui's own constructor builds the vocoder twice, draws random weights and copies the DVAE.
        super(GPTTrainer, self).__init__(config)
        with coqui_vocabulary_path(config.model_args.tokenizer_file) as path:
            self.xtts = build_xtts(config, VoiceBpeTokenizer(path))
        self.xtts.mel_stats = load_pickled(Path(config.model_args.mel_norm_file), map_location="cpu").clone()
        self.torch_mel_spectrogram_style_encoder = make_style_spectrogram(config.model_args, config.audio.sample_rate)
        self.codec = Codec.load(config)
        self.dvae, self.torch_mel_spectrogram_dvae = self.codec.dvae, self.codec.spectrogram
        use_fast_kernels(self.xtts.gpt)
        self.base_rows = self.vocab_size
        self.base_digests: dict[str, str] = {}
        self.rows_frozen = False
        self.adapter_rank = 0
        self.anchor: Anchor | None = None
        self.distill_weight = 0.0
        self._teacher: Teacher | None = None

    @property
    def teacher(self) -> Teacher:
        """The copy of the base with which replayed samples are compared."""
        if self._teacher is None:
            raise ConfigError("There is no teacher to compare replayed samples with. Call create_teacher().")
        return self._teacher

    def create_teacher(self) -> None:
        """Use a copy of the current weights, which must be the base's, as the teacher for replayed samples."""
        self._teacher = Teacher(self.xtts.gpt)

    @property
    def vocab_size(self) -> int:
        """Number of token rows, which is the vocabulary's highest id plus one."""
        return int(self.xtts.gpt.number_text_tokens)

    def load_base(self, weights: Mapping[str, Tensor], base_rows: int) -> None:
        """Load base weights whose token tensors were extended to this vocabulary by `extend_token_tensors`.

        Args:
            weights: Weights as `xtts_weights` returns them.
            base_rows: Number of token rows that come from the base.

        Raises:
            CheckpointError: Tensors are missing, are unexpected or have the wrong shape. The message lists them.
        """
        self._require_same_tensors(self.xtts.state_dict(), weights, "base model")
        self.xtts.load_state_dict(weights)
        self.base_rows = base_rows
        self.base_digests = row_digests(weights, base_rows)

    def freeze_base_rows(self) -> None:
        """Freeze the base's rows in the text embedding and the text head, unless there are no new tokens.

        Create the optimizer after this, so that it gets only the new rows.
        """
        if self.rows_frozen or self.base_rows >= self.vocab_size:
            return
        gpt = self.xtts.gpt
        gpt.text_embedding = FrozenRowsEmbedding(gpt.text_embedding, self.base_rows)
        gpt.text_head = FrozenRowsLinear(gpt.text_head, self.base_rows)
        self.rows_frozen = True

    def restore_frozen_rows(self, base: BaseRows) -> None:
        """Restore the record of the base's rows, and freeze them if needed. Create the optimizer after this."""
        self.base_rows, self.base_digests = base.rows, dict(base.digests)
        if base.frozen:
            self.freeze_base_rows()

    @property
    def base(self) -> BaseRows:
        """The record of the base's rows that `restore_frozen_rows` needs when the run is resumed."""
        return BaseRows(self.base_rows, self.rows_frozen, dict(self.base_digests))

    def freeze_voice(self) -> None:
        """Freeze the voice side, which computes a voice from reference audio, so that voices do not change.

        A voice is computed before the language is known. Create the optimizer after this, so that it keeps no moments
        for frozen parameters.
        """
        freeze_voice(self.xtts.gpt)

    @property
    def voice_frozen(self) -> bool:
        """Whether the voice side is frozen, as it always is with an adapter."""
        return not any(parameter.requires_grad for parameter in voice_parameters(self.xtts.gpt))

    def add_adapter(self, rank: int) -> None:
        """Train adapters and the rows of new tokens instead of the transformer. Calling it again has no effect.

        Create the optimizer after this.

        Args:
            rank: Rank of the adapters.

        Raises:
            ConfigError: There are new tokens, and the base's rows are not frozen.
        """
        if self.base_rows < self.vocab_size and not self.rows_frozen:
            raise ConfigError(
                "An adapter requires frozen base rows, because apart from the adapter, only the rows of new tokens "
                "are trained. Omit --no-freeze-base-rows."
            )
        if not self.adapter_rank:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.training_seed)
                add_adapter(self.xtts.gpt, rank)
            self.adapter_rank = rank

    def get_optimizer(self) -> torch.optim.Optimizer:
        """Return coqui's optimizer with the parameter groups of `learning_rates`."""
        config = self.config
        groups = configured_groups(self.xtts.gpt, config)
        # The fused implementation runs one kernel for all tensors instead of one for each.
        is_fused = config.optimizer in _FUSED and not _UNFUSED_OPTIONS & set(config.optimizer_params)
        options = {**({"fused": True} if is_fused else {}), **config.optimizer_params}
        return get_optimizer(config.optimizer, options, config.lr, parameters=groups)

    def cuda(self, device: Any = None) -> ExtendedGPTTrainer:
        """Move the modules that training uses to the GPU, except the vocoder. `codec` moves the DVAE when needed."""
        self.xtts.gpt.cuda(device)
        self.torch_mel_spectrogram_style_encoder.cuda(device)
        return self

    def plain_state(self) -> dict[str, Tensor]:
        """Return the state dict without the adapters, under the names that a model without adapters uses."""
        return {plain_name(key): tensor for key, tensor in self.state_dict().items() if not is_adapter(key)}

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the adapters' tensors under the names of `Xtts`, or an empty dict if there are none."""
        return {key: tensor for key, tensor in self.xtts.state_dict().items() if is_adapter(key)}

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return the stock state dict, without modules that are neither trained nor needed for inference."""
        return {key: tensor for key, tensor in self.plain_state().items() if not key.startswith(_NEVER_TRAINED)}

    def restore_state(self, state: Mapping[str, Tensor], adapter: Mapping[str, Tensor] | None = None) -> None:
        """Load the model from a training checkpoint (ours or the stock Trainer's), and verify every loaded tensor.

        Args:
            state: State dict of the model, under plain names, with or without coqui's prefix "xtts.".
            adapter: State dict of the adapters, if the run has any.

        Raises:
            CheckpointError: Tensors are missing, are unexpected, have the wrong shape, or changed while they were
                loaded. The message lists them.
        """
        expected = self.plain_state() | {f"xtts.{key}": tensor for key, tensor in self.adapter_state().items()}
        never_trained = {key: tensor for key, tensor in state.items() if key.startswith(_NEVER_TRAINED)}
        trained = {**xtts_weights(state), **(adapter or {})}
        stored = {**never_trained, **{f"xtts.{key}": tensor for key, tensor in trained.items()}}
        # The stock Trainer stores the modules that are never trained; ours does not.
        kept = {key: tensor for key, tensor in expected.items() if key.startswith(_NEVER_TRAINED) and key not in stored}
        complete = {**kept, **stored}
        self._require_same_tensors(expected, complete, "checkpoint")
        self.load_state_dict({key: complete[plain_name(key)] for key in self.state_dict()})
        loaded = {plain_name(key): tensor for key, tensor in self.state_dict().items()}
        wrong = [
            key for key, tensor in stored.items() if not torch.equal(loaded[key].cpu(), tensor.to(loaded[key].dtype))
        ]
        if wrong:
            raise CheckpointError(
                f"After loading, some tensors differ from the checkpoint's ({len(wrong)} in total): "
                f"{', '.join(wrong[:10])}. The file is damaged, the memory is faulty, or a value is NaN. "
                "Use an earlier checkpoint."
            )

    @staticmethod
    def _require_same_tensors(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], source: str) -> None:
        problems = [f"missing: {key}" for key in expected if key not in actual]
        problems += [f"unexpected: {key}" for key in actual if key not in expected]
        problems += [
            f"{key}: expected {tuple(tensor.shape)}, got {tuple(actual[key].shape)}"
            for key, tensor in expected.items()
            if key in actual and actual[key].shape != tensor.shape
        ]
        if problems:
            more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise CheckpointError(
                f"The {source} does not match the configuration and the vocabulary "
                f"(mismatched tensors: {len(problems)}):\n  "
                + "\n  ".join(problems[:10])
                + more
                + "\nUse the config.json and vocab.json that belong to these weights."
            )

    ####################
    # BATCHES AND LOSSES
    ####################

    def format_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add `layout` to a collated batch on the CPU, and `replayed` when training with distillation."""
        gpt = self.xtts.gpt
        lengths = batch["text_lengths"], batch["wav_lengths"]
        batch["layout"] = Layout.of(*lengths, batch["cond_idxs"], gpt, is_share=batch.get("is_share", False))
        if self.distill_weight and gpt.training:
            batch["replayed"] = Replayed.of(batch, gpt)
        return batch

    @torch.no_grad()
    def format_batch_on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Compute the spectrograms of the conditioning slices, and the codes of samples that are not encoded yet.

        coqui's version encodes every sample. This method adds `cond_mels` (batch, 1, 80, frames), `audio_codes` (batch,
        codes) and `text_inputs`, and removes `padded_text`, `wav`, `codes` and `conditioning`.
        """
        batch["text_inputs"] = batch.pop("padded_text")
        for name in ("layout", "replayed"):
            if name in batch:
                batch[name] = batch[name].to(batch["text_inputs"].device)
        conditioning = batch.pop("conditioning")
        batch["cond_mels"] = self.torch_mel_spectrogram_style_encoder(conditioning.flatten(0, 1)).unsqueeze(1)
        wav, codes, is_encoded = batch.pop("wav"), batch.pop("codes"), batch["is_encoded"]
        parts = []
        if wav is not None:
            # Each recording is encoded alone, so that its codes do not depend on the rest of the batch.
            lengths = batch["wav_lengths"][~is_encoded].tolist()
            encoded = [self.codec.encode(audio[:, :length]) for audio, length in zip(wav, lengths, strict=True)]
            parts.append((~is_encoded, pad_sequence(encoded, batch_first=True)))
        parts += [(is_encoded, codes)] if codes is not None else []
        if len(parts) == 1:
            batch["audio_codes"] = parts[0][1]
            return batch
        longest = max(part.shape[-1] for _, part in parts)
        batch["audio_codes"] = torch.zeros(len(is_encoded), longest, dtype=torch.long, device=is_encoded.device)
        for rows, part in parts:
            batch["audio_codes"][rows, : part.shape[-1]] = part
        return batch

    def formatted(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Format a collated batch for `train_step` as the trainer does, and return it on the model's device."""
        batch, device = self.format_batch(batch), next(self.xtts.gpt.parameters()).device
        return self.format_batch_on_device(
            {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        )

    def train_step(
        self, batch: dict[str, Any], criterion: Any, optimizer_idx: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Compute coqui's losses and, in training, the divergence from the base on replayed samples.

        Returns:
            The weighted losses `loss_text_ce`, `loss_mel_ce` and, in training, `loss_distill`, and their sum, `loss`.
            The divergence is summed over the replayed codes and divided by the number of audio targets in the batch,
            like the cross entropy.
        """
        layout: Layout = batch["layout"]
        outputs = forward(self.xtts.gpt, batch["text_inputs"], batch["audio_codes"], batch["cond_mels"], layout)
        losses = {
            "loss_text_ce": outputs.loss_text * self.args.gpt_loss_text_ce_weight,
            "loss_mel_ce": outputs.loss_mel * self.args.gpt_loss_mel_ce_weight,
        }
        if "replayed" in batch:
            divergences = self._divergence(batch, outputs.audio_logits)
            losses["loss_distill"] = divergences * self.distill_weight / max(1, layout.audio_targets)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return {"model_outputs": None}, losses

    def _divergence(self, batch: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Return the divergence from the base, summed over the replayed codes and their stop tokens.

        Args:
            batch: A formatted batch.
            logits: Logits of the audio targets, (audio targets, codes).
        """
        replayed: Replayed = batch["replayed"]
        sums = []
        if len(replayed.stored_targets):
            index = replayed.stored_rows, replayed.stored_steps
            stored = batch["top_ids"][index], batch["top_log_probs"][index]
            sums.append(divergence(*stored, logits[replayed.stored_targets]).sum())
        if replayed.teacher_layout is not None:
            rows, positions = replayed.teacher_rows, replayed.teacher_positions
            ids, log_probs = self.teacher.distributions(
                batch["text_inputs"][rows],
                batch["audio_codes"][rows],
                batch["cond_mels"][rows],
                replayed.teacher_layout,
            )
            sums.append(divergence(ids[positions], log_probs[positions], logits[replayed.teacher_targets]).sum())
        return torch.stack(sums).sum() if sums else logits.new_zeros(())

    def describe_rows(self, init: str) -> str:
        """Return log lines that describe old tokens, new tokens and frozen parameters.

        Args:
            init: How the new tokens' rows were initialized.
        """
        new = self.vocab_size - self.base_rows
        gpt = self.xtts.gpt
        trained = sum(parameter.numel() for parameter in gpt.parameters() if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in gpt.parameters() if not parameter.requires_grad)
        if self.rows_frozen:
            tables = (gpt.text_embedding, gpt.text_head)
            frozen += sum(getattr(table, f"base_{name}").numel() for table in tables for name in table.names)
        lines = [
            f"Tokens 0–{self.base_rows - 1} come from the base (pretrained{', frozen' if self.rows_frozen else ''})."
        ]
        if new:
            lines.append(f"Tokens {self.base_rows}–{self.vocab_size - 1} are new ({new}, {init}).")
        state = "frozen" if self.voice_frozen else "trained"
        lines.append(f"The voice side (conditioning encoder and perceiver) is {state}.")
        others = sum(part.numel() for name, part in self.named_parameters() if not name.startswith("xtts.gpt."))
        lines.append(f"{frozen:,} of the GPT's {trained + frozen:,} parameters are frozen.")
        lines.append(
            f"The model has {trained + frozen + others:,} parameters, including {others:,} in the DVAE and vocoder, "
            "which are never trained."
        )
        return "\n".join(f" > {line}" for line in lines)
