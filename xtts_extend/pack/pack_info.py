"""Metadata of a language pack: the base it was made for, its vocabulary entries, its text cleaning and its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from xtts_extend.errors import PackError
from xtts_extend.text.cleaning import Cleaning
from xtts_extend.text.languages import validate_code
from xtts_extend.text.vocabulary import Merge, Vocabulary, append_exactly, parse_vocabulary

#: Version of the metadata format.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class PackedVocabulary:
    """Entries and merges that a vocabulary appends to the base's.

    Attributes:
        base_digest: `Vocabulary.digest` of the base's vocabulary.
        base_size: Number of token ids in the base's vocabulary.
        entries: New token → id, ordered by id.
        tags: Language tags among the new tokens.
        merges: New merges, in order.
    """

    base_digest: str
    base_size: int
    entries: Mapping[str, int]
    tags: Sequence[str]
    merges: Sequence[Merge]

    @classmethod
    def between(cls, base: Vocabulary, extended: Vocabulary) -> PackedVocabulary:
        """Return what `extended` appends to `base`.

        Raises:
            PackError: `extended` changes the base's entries or merges.
        """
        entries = {token: index for token, index in extended.tokens.items() if token not in base.tokens}
        packed = cls(
            base.digest,
            base.size,
            dict(sorted(entries.items(), key=lambda entry: entry[1])),
            [f"[{code}]" for code in extended.languages if f"[{code}]" in entries],
            extended.merges[len(base.merges) :],
        )
        if packed.joined(base).digest != extended.digest:
            raise PackError(
                f"{extended.path} does more than append entries and merges to {base.path}. Entries in other positions "
                "cannot be separated from the base's, so no pack can be made."
            )
        return packed

    def joined(self, base: Vocabulary) -> Vocabulary:
        """Return the base's vocabulary with these entries and merges appended.

        Raises:
            PackError: The entries were made for a different base vocabulary.
        """
        if base.digest != self.base_digest:
            raise PackError(
                f"{base.path} is not the vocabulary of the pack's base. Expected {self.base_size:,} token ids with the "
                f"base's tokens and merges, got {base.size:,}. Use the folder of the base that the pack was made for."
            )
        return parse_vocabulary(append_exactly(base, self.entries, self.tags, self.merges), base.path, quiet=True)


@dataclass(frozen=True)
class Training:
    """How a pack was trained.

    Attributes:
        steps: Number of batches that the run was trained on.
        hours: Language → hours of recordings, without replay; empty if the run did not record them.
        utterances: Language → number of utterances, without replay; empty if the run did not record them.
        losses: Mel losses on the validation set in the pack's language, if they were measured, under the keys "base"
            (or "start" if the run began with a different pack) and "trained".
        replay: Whether old languages were replayed.
        began_with: Language of the pack that the run began with; empty if it began with the base.
        xtts_extend: Version of this package that wrote the pack.
    """

    steps: int
    hours: Mapping[str, float] = field(default_factory=dict)
    utterances: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    replay: bool = False
    began_with: str = ""
    xtts_extend: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Training:
        """Create the object from the values that `dataclasses.asdict` returns."""
        kinds: dict[str, Callable[[Any], Any]] = {
            "steps": int,
            "hours": lambda hours: {str(code): float(value) for code, value in hours.items()},
            "utterances": lambda counts: {str(code): int(value) for code, value in counts.items()},
            "losses": lambda losses: {str(name): float(value) for name, value in losses.items()},
        }
        return cls(**{name: kinds.get(name, _verbatim)(value) for name, value in values.items()})


@dataclass(frozen=True)
class PackInfo:
    """Metadata of a language pack.

    Attributes:
        language: Code of the language.
        base: Name in `Xtts` → SHA-256 digest, for each of the base's tensors; see `tensor_digest`.
        vocabulary: The entries and merges that are appended to the base's.
        cleaning: Steps that turn written text into the text that is tokenized.
        char_limit: Length, in characters, of the longest utterance that is spoken well.
        texts: Sample texts from the run, before cleaning → their token ids. Programs that read the pack tokenize the
            texts and compare the ids.
        training: How the pack was trained.
        licence: License of the training data, as stated by the pack's author; empty if none was stated.
        created: Date of creation, as YYYY-MM-DD.
        dtype: Type of the stored tensors, such as "float32".
        rank: Rank of the changes to the transformer's matrices; None if full tensors are stored.
        num2words: Version of num2words that spelled out the numbers in `texts`.
        tensors: Name → SHA-256 digest, for each stored tensor.
    """

    language: str
    base: Mapping[str, str]
    vocabulary: PackedVocabulary
    cleaning: Cleaning
    char_limit: int
    texts: Mapping[str, Sequence[int]]
    training: Training
    licence: str
    created: str
    dtype: str
    rank: int | None
    num2words: str = field(default_factory=lambda: version("num2words"))
    tensors: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as plain values for JSON."""
        return {"format": FORMAT_VERSION, **asdict(self), "cleaning": self.cleaning.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PackInfo:
        """Create the object from the values that `to_dict` returns.

        Raises:
            KeyError, TypeError: A value is missing or unexpected.
            LanguageError: The language code is malformed, or a cleaning step is unknown.
        """
        remaining = {key: value for key, value in values.items() if key != "format"}
        vocabulary = remaining.pop("vocabulary")
        return cls(
            language=validate_code(remaining.pop("language")),
            base={str(name): str(digest) for name, digest in remaining.pop("base").items()},
            vocabulary=PackedVocabulary(
                **{
                    **vocabulary,
                    "entries": {str(token): int(index) for token, index in vocabulary["entries"].items()},
                    "merges": [(first, second) for first, second in vocabulary["merges"]],
                }
            ),
            cleaning=Cleaning.from_dict(remaining.pop("cleaning")),
            char_limit=int(remaining.pop("char_limit")),
            texts={str(text): [*map(int, ids)] for text, ids in remaining.pop("texts").items()},
            training=Training.from_dict(remaining.pop("training")),
            tensors={str(name): str(digest) for name, digest in remaining.pop("tensors").items()},
            **remaining,
        )


def _verbatim(value: Any) -> Any:
    return value
