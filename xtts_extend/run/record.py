"""The `xtts_extend` key of a checkpoint: what our runs record besides configuration, weights and optimizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, cast

from torch import Tensor

from xtts_extend.checkpoint.inspect import RECORD_KEY
from xtts_extend.checkpoint.store import FORMAT_VERSION
from xtts_extend.data.sample import Sample
from xtts_extend.data.sample_table import values
from xtts_extend.errors import CheckpointError
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.run.history import hours
from xtts_extend.run.position import Position, no_best_model

#: The last format version whose evaluation losses depended on how samples were batched.
_LAST_BATCHED_VERSION = 2
#: Maximum number of training texts in a checkpoint.
_TEXTS = 50


@dataclass(frozen=True)
class RecordedVocabulary:
    """The vocabulary of a run: a mapping from tokens to ids, and its SHA-256."""

    tokens: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class RecordedAdapter:
    """The adapter of a run. Without one, the rank is 0 and there are no tensors."""

    rank: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedOn:
    """A summary of a run's training data, without replay.

    Attributes:
        hours: Hours of audio by language.
        utterances: Number of utterances by language.
        texts: Up to 50 texts in the language to learn, as written in the manifests and spread evenly over the samples,
            each with its token ids.
    """

    hours: Mapping[str, float]
    utterances: Mapping[str, int]
    texts: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, samples: Sequence[Sample], language: str, encode: Callable[[str, str], list[int]]) -> TrainedOn:
        """Summarize training samples.

        Args:
            samples: The run's usable samples.
            language: Code of the language to learn.
            encode: Function that converts a text and its language to token ids.
        """
        columns = (values(samples, name) for name in ("text", "language", "replay"))
        own = [(text, code) for text, code, is_replayed in zip(*columns, strict=True) if not is_replayed]
        texts = [text for text, code in own if code == language]
        count = min(_TEXTS, len(texts))
        spread = [texts[number * len(texts) // count] for number in range(count)]
        spoken = {code: total for code, total in hours(samples).items() if not code.startswith("replay ")}
        return cls(spoken, dict(Counter(code for _, code in own)), {text: encode(text, language) for text in spread})


class _Adapter(TypedDict):
    rank: int
    tensors: dict[str, Tensor]


class _Rows(TypedDict):
    rows: int
    frozen: bool
    digests: dict[str, str]


class _Vocabulary(TypedDict):
    tokens: dict[str, int]
    digest: str


class _TrainedOn(TypedDict):
    hours: dict[str, float]
    utterances: dict[str, int]
    texts: dict[str, list[int]]


class _Written(TypedDict, total=False):
    """The `xtts_extend` key as it is stored in the file. docs/architecture.md describes each value."""

    version: int
    vocabulary: _Vocabulary
    base_rows: _Rows
    base_dir: str
    adapter: _Adapter
    processes: int
    data_digest: str
    val_digest: str
    trained_on: _TrainedOn
    state: dict[str, object]


@dataclass(frozen=True)
class RunRecord:
    """The content of the `xtts_extend` key.

    Attributes:
        vocabulary: The run's vocabulary; None if the file was edited and has none.
        base_rows: The token rows that belong to the base.
        state: The position as a dict; see `Position.state_dict`. `position` parses it.
        base_dir: Path of the base directory.
        adapter: The run's adapter.
        processes: Number of processes that trained together. The recorded batch size is per process.
        data_digest: Digest of the training samples, computed by `setup.samples.data_digest`; None if it is not
            recorded.
        val_digest: Digest of the validation set; None if it is not recorded.
        trained_on: Summary of the training data; None in checkpoints from releases that did not record it.
        version: Version of the format.
    """

    vocabulary: RecordedVocabulary | None
    base_rows: BaseRows
    state: Mapping[str, object]
    base_dir: str = ""
    adapter: RecordedAdapter = field(default_factory=RecordedAdapter)
    processes: int = 1
    data_digest: str | None = None
    val_digest: str | None = None
    trained_on: TrainedOn | None = None
    version: int = FORMAT_VERSION

    @classmethod
    def of(cls, content: Mapping[str, object]) -> RunRecord | None:
        """Read the record of a loaded checkpoint. Return None for a checkpoint from the stock Trainer.

        Raises:
            CheckpointError: A required part is missing.
        """
        if not content.get(RECORD_KEY):
            return None
        written = cast(_Written, content[RECORD_KEY])
        try:
            rows, vocabulary, trained = written["base_rows"], written.get("vocabulary"), written.get("trained_on")
            adapter = written.get("adapter") or _Adapter(rank=0, tensors={})
            return cls(
                vocabulary=RecordedVocabulary(vocabulary["tokens"], vocabulary["digest"]) if vocabulary else None,
                base_rows=BaseRows(rows["rows"], rows["frozen"], rows["digests"]),
                state=written["state"],
                base_dir=written.get("base_dir", ""),
                adapter=RecordedAdapter(adapter["rank"], adapter["tensors"]),
                processes=written.get("processes", 1),
                data_digest=written.get("data_digest"),
                val_digest=written.get("val_digest"),
                trained_on=TrainedOn(trained["hours"], trained["utterances"], trained["texts"]) if trained else None,
                version=written.get("version", 0),
            )
        except KeyError as error:
            raise CheckpointError(
                f"The checkpoint's record of its run has no {error}, so the file must have been edited. Use an "
                "earlier checkpoint."
            ) from error

    def to_dict(self) -> dict[str, object]:
        """Return the value of the `xtts_extend` key for a checkpoint."""
        written: dict[str, object] = {
            "version": self.version,
            "base_rows": {
                "rows": self.base_rows.rows,
                "frozen": self.base_rows.frozen,
                "digests": dict(self.base_rows.digests),
            },
            "base_dir": self.base_dir,
            "adapter": {"rank": self.adapter.rank, "tensors": dict(self.adapter.tensors)},
            "processes": self.processes,
            "data_digest": self.data_digest,
            "val_digest": self.val_digest,
            "state": dict(self.state),
        }
        if self.vocabulary is not None:
            written["vocabulary"] = {"tokens": dict(self.vocabulary.tokens), "digest": self.vocabulary.digest}
        if (trained_on := self.trained_on) is not None:
            written["trained_on"] = {
                "hours": dict(trained_on.hours),
                "utterances": dict(trained_on.utterances),
                "texts": {text: list(ids) for text, ids in trained_on.texts.items()},
            }
        return written

    @property
    def position(self) -> Position:
        """Position of the run.

        Raises:
            CheckpointError: The format version is not supported, or a value is missing or unknown.
        """
        if self.version not in range(1, FORMAT_VERSION + 1):
            raise CheckpointError(
                f"The checkpoint has format version {self.version}; this release reads versions 1 to "
                f"{FORMAT_VERSION}. Use the release of xtts_extend that wrote it."
            )
        # Version 1 had no retention and no micro-batches. Up to version 2, the evaluation before the first step was not
        # a candidate for the best model.
        added = {1: {**no_best_model(), "base_losses": {}, "parts": 1}, 2: no_best_model()}.get(self.version, {})
        position = Position()
        position.load_state_dict({**added, **self.state})
        return position

    @property
    def evaluations_comparable(self) -> bool:
        """Whether the run's evaluation losses can be compared with those of this release."""
        return self.version > _LAST_BATCHED_VERSION

    @property
    def has_evaluated(self) -> bool:
        """Whether the run has a finite best loss, to which later evaluations can be compared."""
        best = self.state.get("best_value", math.inf)
        return isinstance(best, float) and math.isfinite(best)
