"""coqui's `GPTTrainer` with a vocabulary that grew: base weights in, new rows, frozen old rows, stock state out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trainer.trainer_utils import get_optimizer

from xtts_extend.checkpoint.store import adapter_tensors
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.model.adapter import add_adapter, is_adapter, merge, plain_name
from xtts_extend.model.anchor import Anchor
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.codec import Codec
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

#: Parts of the model that only training needs and that never train: they come from the base directory every time.
_NEVER_TRAINED = ("dvae.", "torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.")
#: Optimizers of torch that have a fused form.
_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
_OTHER_WAYS = {"foreach", "differentiable"}
#: The transformer once more, under the names that it has while speaking; some published files hold both.
_INFERENCE_COPIES = ("gpt.gpt_inference.", "gpt.gpt.wte.")


def xtts_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `Xtts` in a base file's or a training checkpoint's state dict, under the names of `Xtts`.

    What only training needs is left out, and the second copy of the transformer in files of early releases. Weights in
    half precision become float32, in which a model is trained, compared and spoken with.
    """
    weights = {}
    for key, tensor in state.items():
        name = key.removeprefix("xtts.")
        if not key.startswith(_NEVER_TRAINED) and not name.startswith(_INFERENCE_COPIES):
            weights[name] = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return weights


def merged_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of `Xtts` as a loaded base file or checkpoint speaks with them: its adapter is merged into them."""
    return merge(xtts_weights(content.get("model", content)), adapter_tensors(content))


def row_digests(state: Mapping[str, Tensor], rows: int, prefix: str = "gpt.") -> dict[str, str]:
    """SHA-256 of the first `rows` rows of each token tensor, as float32: tells whether old rows are the base's."""
    return {
        name: hashlib.sha256(state[prefix + name][:rows].float().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name in TOKEN_TENSORS
    }


class ExtendedGPTTrainer(GPTTrainer):
    """`GPTTrainer` that takes a base with a smaller vocabulary and can freeze the rows of old tokens.

    It comes without weights: `load_base` or `restore_state` brings them.

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
        vocabulary = config.model_args.tokenizer_file
        with BlankWeights(), coqui_vocabulary_path(vocabulary) as config.model_args.tokenizer_file:
            super().__init__(config)
        config.model_args.tokenizer_file = vocabulary
        self.codec = Codec(self.dvae, self.torch_mel_spectrogram_dvae, config.audio, self.xtts.gpt.code_stride_len)
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
        """The base as it was; `create_teacher` makes it."""
        if self._teacher is None:
            raise ConfigError("There is no base to compare replayed samples with. Call take_teacher().")
        return self._teacher

    def create_teacher(self) -> None:
        """Keep the present weights, which are the base's, as what replayed samples are compared with."""
        self._teacher = Teacher(self.xtts.gpt)

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

    def restore_frozen_rows(self, base: BaseRows) -> None:
        """Know the base's rows, and freeze them, as a run did that is resumed; before the optimizer is made."""
        self.base_rows, self.base_digests = base.rows, dict(base.digests)
        if base.frozen:
            self.freeze_base_rows()

    @property
    def base(self) -> BaseRows:
        """What `restore_frozen_rows` of a later resume needs to know."""
        return BaseRows(self.base_rows, self.rows_frozen, dict(self.base_digests))

    def freeze_voice(self) -> None:
        """Freeze what makes a voice of reference audio, so that voices stay the base's for every language.

        A voice is computed before anyone knows the language that it will speak. The optimizer has to be made after
        this: it keeps no moments of what is frozen.
        """
        freeze_voice(self.xtts.gpt)

    @property
    def voice_frozen(self) -> bool:
        """Whether nothing of the voice side trains; beside an adapter nothing does."""
        return not any(parameter.requires_grad for parameter in voice_parameters(self.xtts.gpt))

    def add_adapter(self, rank: int) -> None:
        """Train adapters of a rank and the rows of new tokens instead of the transformer; nothing to do a second time.

        The optimizer has to be made after this.

        Raises:
            ConfigError: there are new tokens, and the base's rows are not frozen.
        """
        if self.base_rows < self.vocab_size and not self.rows_frozen:
            raise ConfigError(
                "An adapter needs frozen base rows: beside it only the rows of new tokens train. Leave "
                "--no-freeze-base-rows away."
            )
        if not self.adapter_rank:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.training_seed)
                add_adapter(self.xtts.gpt, rank)
            self.adapter_rank = rank

    def get_optimizer(self) -> torch.optim.Optimizer:
        """coqui's optimizer and groups, with the rates of `learning_rates`."""
        config = self.config
        groups = configured_groups(self.xtts.gpt, config)
        # one kernel for all tensors instead of one for each, unless another way is asked for
        fused = {"fused": True} if config.optimizer in _FUSED and not _OTHER_WAYS & set(config.optimizer_params) else {}
        return get_optimizer(config.optimizer, {**fused, **config.optimizer_params}, config.lr, parameters=groups)

    def cuda(self, device: Any = None) -> ExtendedGPTTrainer:
        """Move what training uses to the GPU: not the vocoder, nor the DVAE, which `codec` takes along when asked."""
        self.xtts.gpt.cuda(device)
        self.torch_mel_spectrogram_style_encoder.cuda(device)
        return self

    def plain_state(self) -> dict[str, Tensor]:
        """The state dict under the names that it has without adapters, and without them."""
        return {plain_name(key): tensor for key, tensor in self.state_dict().items() if not is_adapter(key)}

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapters' tensors under the names of `Xtts`; empty without adapters."""
        return {key: tensor for key, tensor in self.xtts.state_dict().items() if is_adapter(key)}

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The stock state dict without what never trains and is not needed to load the model elsewhere."""
        return {key: tensor for key, tensor in self.plain_state().items() if not key.startswith(_NEVER_TRAINED)}

    def restore_state(self, state: Mapping[str, Tensor], adapter: Mapping[str, Tensor] | None = None) -> None:
        """Load a training checkpoint's model, ours or the stock Trainer's, and check that every tensor arrived.

        Args:
            state: of the model, under plain names, with or without the "xtts." of coqui's trainer.
            adapter: of the adapters, if the run has any.

        Raises:
            CheckpointError: a tensor is missing, left over, or of another shape; each is named.
        """
        own = self.plain_state() | {f"xtts.{key}": tensor for key, tensor in self.adapter_state().items()}
        never_trained = {key: tensor for key, tensor in state.items() if key.startswith(_NEVER_TRAINED)}
        trained = {**xtts_weights(state), **(adapter or {})}
        given = {**never_trained, **{f"xtts.{key}": tensor for key, tensor in trained.items()}}
        # ours does not hold them; the stock Trainer's does
        absent = {key: tensor for key, tensor in own.items() if key.startswith(_NEVER_TRAINED) and key not in given}
        self._require_same_tensors(own, {**absent, **given}, "checkpoint")
        everything = {**absent, **given}
        self.load_state_dict({key: everything[plain_name(key)] for key in self.state_dict()})
        arrived = {plain_name(key): tensor for key, tensor in self.state_dict().items()}
        wrong = [
            key for key, tensor in given.items() if not torch.equal(arrived[key].cpu(), tensor.to(arrived[key].dtype))
        ]
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

    ####################
    # BATCHES AND LOSSES
    ####################

    def format_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work out, on the CPU, where things lie in a collated batch: adds `layout`, and `replayed` if that counts."""
        gpt = self.xtts.gpt
        lengths = batch["text_lengths"], batch["wav_lengths"]
        batch["layout"] = Layout.of(*lengths, batch["cond_idxs"], gpt, is_share=batch.get("is_share", False))
        if self.distill_weight and gpt.training:
            batch["replayed"] = Replayed.of(batch, gpt)
        return batch

    @torch.no_grad()
    def format_batch_on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Spectrograms of the conditioning, and codes of what is not encoded yet, on the device.

        As coqui's, which encodes every sample. Adds `cond_mels` (batch, 1, 80, frames), `audio_codes` (batch, codes)
        and `text_inputs`; removes `padded_text`, `wav`, `codes` and `conditioning`.
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
            # each by itself: its codes are the same whatever else is in the batch
            lengths = batch["wav_lengths"][~is_encoded].tolist()
            own = [self.codec.encode(one[:, :length]) for one, length in zip(wav, lengths, strict=True)]
            parts.append((~is_encoded, pad_sequence(own, batch_first=True)))
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
        """A collated batch as `train_step` takes it, on the model's device; the trainer does the same."""
        batch, device = self.format_batch(batch), next(self.xtts.gpt.parameters()).device
        return self.format_batch_on_device(
            {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        )

    def train_step(
        self, batch: dict[str, Any], criterion: Any, optimizer_idx: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """coqui's losses, and in training the divergence from the base on replayed samples.

        Returns:
            `loss_text_ce` and `loss_mel_ce` with their weights, in training `loss_distill` with its, and `loss`, their
            sum. The divergence is summed over the replayed codes and divided by all audio targets of the batch, as the
            cross entropy is.
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
        """The divergence from the base, summed over the replayed codes and their stop tokens.

        Args:
            batch: formatted.
            logits: of the audio targets, (audio targets, codes).
        """
        replayed: Replayed = batch["replayed"]
        sums = []
        if len(replayed.kept_at):
            place = replayed.kept_rows, replayed.kept_steps
            kept = batch["top_ids"][place], batch["top_log_probs"][place]
            sums.append(divergence(*kept, logits[replayed.kept_at]).sum())
        if replayed.asked_layout is not None:
            rows, places = replayed.asked_rows, replayed.asked_places
            ids, log_probs = self.teacher.distributions(
                batch["text_inputs"][rows], batch["audio_codes"][rows], batch["cond_mels"][rows], replayed.asked_layout
            )
            sums.append(divergence(ids[places], log_probs[places], logits[replayed.asked_at]).sum())
        return torch.stack(sums).sum() if sums else logits.new_zeros(())

    def describe_rows(self, init: str) -> str:
        """What the log says at the start about old and new tokens and about frozen parameters."""
        new = self.vocab_size - self.base_rows
        gpt = self.xtts.gpt
        trained = sum(parameter.numel() for parameter in gpt.parameters() if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in gpt.parameters() if not parameter.requires_grad)
        if self.rows_frozen:
            tables = (gpt.text_embedding, gpt.text_head)
            frozen += sum(getattr(table, f"base_{name}").numel() for table in tables for name in table.names)
        lines = [f"base tokens 0–{self.base_rows - 1} (pretrained{', frozen' if self.rows_frozen else ''})"]
        if new:
            lines.append(f"new tokens {self.base_rows}–{self.vocab_size - 1} ({new}, {init})")
        lines.append(f"voice side (conditioning encoder and perceiver) {'frozen' if self.voice_frozen else 'trained'}")
        others = sum(part.numel() for name, part in self.named_parameters() if not name.startswith("xtts.gpt."))
        lines.append(f"{frozen:,} of {trained + frozen:,} parameters of the GPT are frozen")
        lines.append(
            f"the whole model has {trained + frozen + others:,} parameters: DVAE and vocoder ({others:,}) never train"
        )
        return "\n".join(f" > {line}" for line in lines)
