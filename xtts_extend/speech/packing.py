"""A run becomes a language pack: what it changed of its base, and all that a reader needs to know of it."""

from __future__ import annotations

import datetime
import logging

import torch
from torch import Tensor

import xtts_extend
from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.errors import LanguageError, PackError
from xtts_extend.model.adapter import difference
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.voice import VOICE_PARTS
from xtts_extend.pack.file import digests, other_ids
from xtts_extend.pack.pack_info import PackedVocabulary, PackInfo, Training
from xtts_extend.run.metrics import FILE_NAME, finite, read_metrics
from xtts_extend.run.record import TrainedOn
from xtts_extend.speech.finished_run import FinishedRun
from xtts_extend.text.cleaning import Cleaning
from xtts_extend.text.languages import cleaning_of, language_tag
from xtts_extend.text.tokenizer import PackedLanguage

logger = logging.getLogger("trainer")

#: In what the change of a run is kept.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOICE_SIDE = tuple(f"gpt.{part}" for part in VOICE_PARTS)
_MERGED = "Export it with --merged: one set of weights for all languages, in which the old ones change."


def make_pack(
    run: FinishedRun, *, rank: int | None = None, dtype: str = "float32", licence: str = ""
) -> tuple[PackInfo, dict[str, Tensor]]:
    """What a run learned, apart from its base.

    Args:
        run: that learned a new language.
        rank: of the change of each matrix keep this many directions; None keeps the whole change. A run with an
            adapter has its own rank.
        dtype: of the stored tensors, one of `DTYPES`.
        licence: of what the run was trained on.

    Returns:
        Metadata and tensors, as `write_pack` takes them.

    Raises:
        PackError: the run cannot be kept apart from its base; the message says why.
    """
    language, base = run.language, run.base_weights
    record = run.checkpoint.record
    if record is None or not language:
        raise PackError(
            f"{run.path} was written by the stock Trainer, which trains all rows and the voice side and does not "
            f"record its language: it cannot be a language pack. {_MERGED}"
        )
    if inspect_checkpoint(run.base_model).kind == "training":
        raise PackError(
            f"{run.path} started from the weights of another run, {run.base_model}, which is not a base. "
            f"{_MERGED} Or train again from the base, or with --start-from from a pack of that run."
        )
    _require_new_language(run, record.trained_on)
    if rank is not None and run.adapter:
        raise PackError("--rank: the run trained an adapter, whose own rank is kept. Omit it.")
    _require_unchanged(run)
    changed = difference(run.weights, base, rank) | dict(run.adapter)
    cleaning, char_limit = _cleaning(language)
    began_with = str(run.checkpoint.config.get("start_from") or "").rpartition(":")[2]
    vocabulary = PackedVocabulary.between(run.base_vocabulary, run.vocabulary)
    spoken = PackedLanguage(language, run.vocabulary.tokenizer, cleaning, char_limit)
    return PackInfo(
        language=language,
        base=digests(base),
        vocabulary=vocabulary,
        cleaning=cleaning,
        char_limit=char_limit,
        texts=_texts(spoken, record.trained_on),
        training=Training(
            steps=record.position.step,
            hours=dict(record.trained_on.hours) if record.trained_on else {},
            utterances=dict(record.trained_on.utterances) if record.trained_on else {},
            losses=_losses(run, "start" if began_with else "base"),
            replay=bool(run.checkpoint.config.get("replay")),
            began_with=began_with,
            xtts_extend=xtts_extend.__version__,
        ),
        licence=licence,
        created=datetime.date.today().isoformat(),
        dtype=dtype,
        rank=record.adapter.rank or rank,
    ), {name: tensor.to(DTYPES[dtype]) for name, tensor in changed.items()}


def _require_new_language(run: FinishedRun, trained_on: TrainedOn | None) -> None:
    language, base = run.language, run.base_vocabulary
    if language_tag(language) in base.tokens:
        raise PackError(
            f"{run.path} trained {language}, which its base speaks already. A pack adds a language and never takes the "
            f"place of one of the base's. {_MERGED}"
        )
    trained = trained_on.hours if trained_on else [code for code in run.vocabulary.languages if code == language]
    new = [code for code in trained if language_tag(code) not in base.tokens]
    if len(new) > 1:
        raise PackError(
            f"{run.path} trained {len(new)} new languages, {', '.join(new)}: the transformer learned them together, "
            f"and a pack is one language. Train each in a run of its own. {_MERGED}"
        )


def _require_unchanged(run: FinishedRun) -> None:
    """Stop where the run changed what has to be the base's, because it is used before the language is known."""
    reasons = {
        "the voice side (conditioning encoder and perceiver), which computes a voice before anyone knows the language; "
        "train with --voice frozen": [name for name in run.weights if name.startswith(_VOICE_SIDE)],
        "rows of old tokens; train without --no-freeze-base-rows": [f"gpt.{name}" for name in TOKEN_TENSORS],
        "the vocoder or the speaker encoder": [name for name in run.weights if not name.startswith("gpt.")],
    }
    for reason, names in reasons.items():
        if not all(_starts_with(run.weights[name], run.base_weights[name]) for name in names):
            raise PackError(f"{run.path} changed {reason}. It cannot be a language pack. {_MERGED}")


def _starts_with(tensor: Tensor, base: Tensor) -> bool:
    """Whether a tensor, or its first rows, are the base's."""
    return torch.equal(tensor[: len(base)] if base.ndim else tensor, base)


def _cleaning(language: str) -> tuple[Cleaning, int]:
    try:
        return cleaning_of(language)
    except LanguageError as error:
        raise PackError(f"{error} {_MERGED}") from error


def _texts(spoken: PackedLanguage, trained_on: TrainedOn | None) -> dict[str, list[int]]:
    if trained_on is None:
        logger.warning(
            " > The run was begun by an earlier release, which recorded no texts: readers of the pack cannot compare "
            "how texts become tokens."
        )
        return {}
    if wrong := other_ids(spoken, trained_on.texts):
        raise PackError(
            f"{len(wrong)} of {len(trained_on.texts)} texts that the run was trained on are tokenized differently here "
            f"(the first: {wrong[0]!r}): the run cleaned them with a cleaner that is not registered here. A pack "
            "carries its cleaning as data: register a Cleaning (docs/languages.md), and export in the same program. "
            f"{_MERGED}"
        )
    return {text: list(ids) for text, ids in trained_on.texts.items()}


def _losses(run: FinishedRun, first: str) -> dict[str, float]:
    """Mel losses on the validation set in the language, before the first step and at the last evaluation until now."""
    if not (run.path.parent / FILE_NAME).is_file():
        return {}
    _, lines = read_metrics(run.path.parent)
    step = run.checkpoint.info.step or 0
    own = [line for line in lines if line.get("language") == run.language and line["step"] <= step]
    names = (first if line["step"] == 0 else "trained" for line in own)
    return {name: finite(line["loss_mel_ce"]) for name, line in zip(names, own, strict=True)}
