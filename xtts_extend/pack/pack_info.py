"""The metadata of a language pack: what it fits, what its vocabulary adds, how text is cleaned, how it was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from xtts_extend.errors import PackError
from xtts_extend.text.cleaning import Cleaning
from xtts_extend.text.languages import validate_code
from xtts_extend.text.vocabulary import Merge, Vocabulary, append_exactly, parse_vocabulary

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PackedVocabulary:
    """What a vocabulary has after the base's entries.

    Attributes:
        base_digest: `Vocabulary.digest` of the base's.
        base_size: its size.
        entries: token → id, in the order of the ids.
        tags: those of them that are added tokens: language tags.
        merges: those after the base's.
    """

    base_digest: str
    base_size: int
    entries: Mapping[str, int]
    tags: Sequence[str]
    merges: Sequence[Merge]

    @classmethod
    def between(cls, base: Vocabulary, extended: Vocabulary) -> PackedVocabulary:
        """What `extended` adds to `base`.

        Raises:
            PackError: it is not the base's with entries and merges after the last ones.
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
                f"{extended.path} is not {base.path} with entries and merges after the last ones: entries in other "
                "places cannot be kept apart from the base's."
            )
        return packed

    def joined(self, base: Vocabulary) -> Vocabulary:
        """The base's vocabulary with these entries.

        Raises:
            PackError: it is another base vocabulary than the one that they were made for.
        """
        if base.digest != self.base_digest:
            raise PackError(
                f"{base.path} is not the vocabulary of the pack's base: {base.size} token ids here, {self.base_size} "
                "there, or other merges. Use the folder of the base that the pack was made for."
            )
        return parse_vocabulary(append_exactly(base, self.entries, self.tags, self.merges), base.path, quiet=True)


@dataclass(frozen=True)
class Training:
    """How a pack was trained.

    Attributes:
        steps: batches.
        hours: of recordings, by language, replay left out; empty where the run did not record them.
        utterances: as `hours`.
        losses: mel losses on the validation set in the pack's language, where they were measured: "base" or, of a run
            that began with another pack, "start"; and "trained".
        replay: whether old languages were replayed.
        began_with: language of the pack that the run began with; empty where it began with the base.
        xtts_extend: version of this package that wrote the pack.
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
        """Read what `dataclasses.asdict` gave."""
        kinds: dict[str, Callable[[Any], Any]] = {
            "steps": int,
            "hours": lambda hours: {str(code): float(value) for code, value in hours.items()},
            "utterances": lambda counts: {str(code): int(value) for code, value in counts.items()},
            "losses": lambda losses: {str(name): float(value) for name, value in losses.items()},
        }
        return cls(**{name: kinds.get(name, _verbatim)(value) for name, value in values.items()})


@dataclass(frozen=True)
class PackInfo:
    """The metadata of a pack.

    Attributes:
        language: its code.
        base: SHA-256 of each of the base's tensors, by its name in `Xtts`, see `tensor_digest`.
        vocabulary: what it has after the base's.
        cleaning: from text as it is written to text that is tokenized.
        char_limit: characters up to which an utterance is good.
        texts: some texts of the run, as they were written, each with its token ids; a reader tokenizes them and
            compares.
        training: how it was trained.
        licence: of what it was trained on, in the words of who made it; empty where nothing was said.
        created: date, as YYYY-MM-DD.
        dtype: of the stored tensors, such as "float32".
        rank: of the change of the transformer's matrices, None where it is whole.
        num2words: version that wrote numbers as words in `texts`.
        tensors: SHA-256 of each stored tensor.
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
        """As it is written."""
        return {"format": FORMAT_VERSION, **asdict(self), "cleaning": self.cleaning.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PackInfo:
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError: a value is missing or left over.
            LanguageError: a step of its cleaning is not known here.
        """
        given = {key: value for key, value in values.items() if key != "format"}
        written = given.pop("vocabulary")
        return cls(
            language=validate_code(given.pop("language")),
            base={str(name): str(digest) for name, digest in given.pop("base").items()},
            vocabulary=PackedVocabulary(
                **{
                    **written,
                    "entries": {str(token): int(index) for token, index in written["entries"].items()},
                    "merges": [(first, second) for first, second in written["merges"]],
                }
            ),
            cleaning=Cleaning.from_dict(given.pop("cleaning")),
            char_limit=int(given.pop("char_limit")),
            texts={str(text): [*map(int, ids)] for text, ids in given.pop("texts").items()},
            training=Training.from_dict(given.pop("training")),
            tensors={str(name): str(digest) for name, digest in given.pop("tensors").items()},
            **given,
        )


def _verbatim(value: Any) -> Any:
    return value
