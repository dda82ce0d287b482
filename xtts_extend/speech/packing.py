"""Convert a run into a language pack, which contains metadata and the run's changes to its base."""

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

#: Types that a pack's tensors can have.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOICE_SIDE = tuple(f"gpt.{part}" for part in VOICE_PARTS)
_EXPORT_MERGED = (
    "Export the run with --merged, which writes one set of weights for all languages but changes how the old ones "
    "sound."
)
_OR_EXPORT_MERGED = f"Or e{_EXPORT_MERGED[1:]}"


def make_pack(
    run: FinishedRun, *, rank: int | None = None, dtype: str = "float32", licence: str = ""
) -> tuple[PackInfo, dict[str, Tensor]]:
    """Return the metadata and tensors of a run's language pack.

    Args:
        run: A run that learned a new language.
        rank: Rank of the approximation of each matrix's change. None keeps the complete change. A run with an adapter
            keeps the adapter's rank.
        dtype: Type of the stored tensors, one of `DTYPES`.
        licence: License of the training recordings.

    Returns:
        Metadata and tensors, as `write_pack` takes them.

    Raises:
        PackError: The run cannot be exported as a pack, because it changed more of its base than a pack may change.
    """
    language, base = run.language, run.base_weights
    record = run.checkpoint.record
    if record is None or not language:
        raise PackError(
            f"{run.path} was written by the stock Trainer, which trains all rows and the voice side and does not "
            f"record the language, so the run cannot be exported as a language pack. {_EXPORT_MERGED}"
        )
    if inspect_checkpoint(run.base_model).kind == "training":
        raise PackError(
            f"{run.path} started from {run.base_model}, which is another run's checkpoint rather than a base model. "
            f"Train again from the base, or from a pack of that run with --start-from. {_OR_EXPORT_MERGED}"
        )
    _require_new_language(run, record.trained_on)
    if rank is not None and run.adapter:
        raise PackError("--rank does not apply, because the run trained an adapter, whose rank is kept. Omit --rank.")
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
            f"{run.path} was trained on {language}, which its base already supports. A pack adds a language; it cannot "
            f"replace one of the base's. {_EXPORT_MERGED}"
        )
    trained = trained_on.hours if trained_on else [code for code in run.vocabulary.languages if code == language]
    new = [code for code in trained if language_tag(code) not in base.tokens]
    if len(new) > 1:
        raise PackError(
            f"{run.path} was trained on {len(new)} new languages together ({', '.join(new)}), but a pack can hold "
            f"only one. Train each in its own run. {_OR_EXPORT_MERGED}"
        )


def _require_unchanged(run: FinishedRun) -> None:
    """Raise PackError if the run changed tensors that must stay unchanged because all languages share them."""
    reasons = {
        "the voice side (conditioning encoder and perceiver), which computes a voice before the language is known. "
        f"Train with --voice frozen. {_OR_EXPORT_MERGED}": [
            name for name in run.weights if name.startswith(_VOICE_SIDE)
        ],
        f"rows of old tokens. Train without --no-freeze-base-rows. {_OR_EXPORT_MERGED}": [
            f"gpt.{name}" for name in TOKEN_TENSORS
        ],
        f"the vocoder or the speaker encoder. {_EXPORT_MERGED}": [
            name for name in run.weights if not name.startswith("gpt.")
        ],
    }
    for reason, names in reasons.items():
        if not all(_starts_with(run.weights[name], run.base_weights[name]) for name in names):
            raise PackError(f"{run.path} cannot be exported as a language pack, because it changed {reason}")


def _starts_with(tensor: Tensor, base: Tensor) -> bool:
    """Return whether a tensor's first rows, as many as the base's tensor has, equal the base's."""
    return torch.equal(tensor[: len(base)] if base.ndim else tensor, base)


def _cleaning(language: str) -> tuple[Cleaning, int]:
    try:
        return cleaning_of(language)
    except LanguageError as error:
        raise PackError(
            f"{error} --merged writes one set of weights for all languages but changes how the old ones sound."
        ) from error


def _texts(spoken: PackedLanguage, trained_on: TrainedOn | None) -> dict[str, list[int]]:
    if trained_on is None:
        logger.warning(
            " > The run was started with an earlier release, which did not record texts, so users of the pack "
            "cannot check that texts are tokenized in the same way. The export continues."
        )
        return {}
    if wrong := other_ids(spoken, trained_on.texts):
        raise PackError(
            f"{len(wrong)} of {len(trained_on.texts)} training texts are tokenized differently now (first: "
            f"{wrong[0]!r}), because the run used a cleaner that is not registered in this program. A pack stores "
            "its cleaning as data, so register a Cleaning (docs/languages.md) and export the run in the same "
            f"program. {_OR_EXPORT_MERGED}"
        )
    return {text: list(ids) for text, ids in trained_on.texts.items()}


def _losses(run: FinishedRun, first: str) -> dict[str, float]:
    """Return the language's validation mel losses before the first step and at the last evaluation up to this step."""
    if not (run.path.parent / FILE_NAME).is_file():
        return {}
    _, lines = read_metrics(run.path.parent)
    step = run.checkpoint.info.step or 0
    evaluations = [line for line in lines if line.get("language") == run.language and line["step"] <= step]
    names = (first if line["step"] == 0 else "trained" for line in evaluations)
    return {name: finite(line["loss_mel_ce"]) for name, line in zip(names, evaluations, strict=True)}
