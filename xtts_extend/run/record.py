"""The `xtts_extend` key of a checkpoint: what a run of ours records beside configuration, weights and optimizer."""

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
from xtts_extend.errors import CheckpointError
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.run.history import hours
from xtts_extend.run.position import Position, no_best_model

#: The last version of checkpoints whose evaluations depended on how they were batched.
_LAST_BATCHED_VERSION = 2
#: How many texts of the language that is learned a checkpoint holds.
_TEXTS = 50


@dataclass(frozen=True)
class RecordedVocabulary:
    """The vocabulary of a run: token → id, and its digest."""

    tokens: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class RecordedAdapter:
    """The adapter of a run; of rank 0 and empty without one."""

    rank: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedOn:
    """What a run learned from, without what it replays.

    Attributes:
        hours, utterances: by language.
        texts: up to fifty of the language that is learned, spread evenly over its samples, as manifests have them,
            each with the token ids that it was trained as.
    """

    hours: Mapping[str, float]
    utterances: Mapping[str, int]
    texts: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, samples: Sequence[Sample], language: str, encode: Callable[[str, str], list[int]]) -> TrainedOn:
        """Count training samples.

        Args:
            samples: of a run, checked.
            language: that is learned.
            encode: token ids of a text in a language.
        """
        learned = [sample for sample in samples if not sample.replay]
        texts = [sample.text for sample in learned if sample.language == language]
        count = min(_TEXTS, len(texts))
        spread = [texts[number * len(texts) // count] for number in range(count)]
        counts = dict(Counter(sample.language for sample in learned))
        return cls(hours(learned), counts, {text: encode(text, language) for text in spread})


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
    """The key as it lies in the file; docs/architecture.md says what each value is."""

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
    """What a run of ours recorded.

    Attributes:
        vocabulary: of the run; None where an edited file lacks it.
        base_rows: the token rows that are the base's.
        state: the position, as `Position.state_dict` gives it; `position` reads it.
        base_dir: where the base was.
        adapter: of the run.
        processes: how many trained together; the recorded batch size is that of one.
        data_digest, val_digest: of the samples, see `setup.samples.data_digest`; None where they are not recorded.
        trained_on: what it learned from; None in checkpoints of releases that did not record it.
        version: of the format.
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
        """The record in a loaded checkpoint; None in one of the stock Trainer.

        Raises:
            CheckpointError: it lacks a part.
        """
        if not content.get(RECORD_KEY):
            return None
        written = cast(_Written, content[RECORD_KEY])
        try:
            rows, vocabulary, learned = written["base_rows"], written.get("vocabulary"), written.get("trained_on")
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
                trained_on=TrainedOn(learned["hours"], learned["utterances"], learned["texts"]) if learned else None,
                version=written.get("version", 0),
            )
        except KeyError as error:
            raise CheckpointError(
                f"The checkpoint's record of its run lacks {error}: the file was edited. Use an earlier checkpoint."
            ) from error

    def to_dict(self) -> dict[str, object]:
        """The key as it is written."""
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
        if (learned := self.trained_on) is not None:
            written["trained_on"] = {
                "hours": dict(learned.hours),
                "utterances": dict(learned.utterances),
                "texts": {text: list(ids) for text, ids in learned.texts.items()},
            }
        return written

    @property
    def position(self) -> Position:
        """Where the run was.

        Raises:
            CheckpointError: another release wrote it, or a value is missing or left over.
        """
        if self.version not in range(1, FORMAT_VERSION + 1):
            raise CheckpointError(
                f"The checkpoint has format version {self.version}; this release reads 1 to {FORMAT_VERSION}. Use the "
                "release of xtts_extend that wrote it."
            )
        # version 1 did not measure what is kept, and a batch was always trained at once; up to version 2 the
        # evaluation before the first step did not compete
        added = {1: {**no_best_model(), "base_losses": {}, "parts": 1}, 2: no_best_model()}.get(self.version, {})
        position = Position()
        position.load_state_dict({**added, **self.state})
        return position

    @property
    def evaluations_comparable(self) -> bool:
        """Whether its evaluations can be compared with this release's."""
        return self.version > _LAST_BATCHED_VERSION

    @property
    def has_evaluated(self) -> bool:
        """Whether the run had evaluated, so that there is a start to compare with."""
        best = self.state.get("best_value", math.inf)
        return isinstance(best, float) and math.isfinite(best)
