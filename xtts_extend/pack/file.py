"""A language pack: what a run learned beside its base, in one file of safetensors whose metadata says what it fits.

The metadata is one JSON object. It holds what a reader needs to check the pack (digests of the base and of the pack's
own tensors, texts with their ids) and what speaking needs beside tensors: the vocabulary's new entries, and how text is
cleaned, as data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xtts_extend.errors import LanguageError, PackError
from xtts_extend.files import atomic_path
from xtts_extend.model.adapter import changed_tensors
from xtts_extend.text.cleaning import Cleaning
from xtts_extend.text.tokenizer import PackedLanguage
from xtts_extend.text.vocabulary import Merge, Vocabulary, append_exactly, parse_vocabulary

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
#: Key of the JSON object in the metadata of the file, whose values are strings.
_KEY = "xtts_extend.pack"


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
class PackedText:
    """A text, as it was written, and its token ids in the pack's vocabulary."""

    text: str
    ids: Sequence[int]


@dataclass(frozen=True)
class Training:
    """How a pack was trained.

    Attributes:
        steps: batches.
        hours: of recordings, by language, replay left out; empty where the run did not record them.
        utterances: as `hours`.
        losses: by name: the mel loss of the base and of the run on the validation set in the pack's language, and the
            run's best loss, where they were measured.
        replay: whether old languages were replayed.
        xtts_extend: version of this package that wrote the pack.
    """

    steps: int
    hours: Mapping[str, float] = field(default_factory=dict)
    utterances: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    replay: bool = False
    xtts_extend: str = ""


@dataclass(frozen=True)
class PackInfo:
    """The metadata of a pack.

    Attributes:
        language: its code.
        base: SHA-256 of each of the base's tensors, by its name in `Xtts`, see `tensor_digest`.
        vocabulary: what it has after the base's.
        cleaning: from text as it is written to text that is tokenized.
        char_limit: characters up to which an utterance is good.
        texts: some texts of the run; a reader tokenizes them and compares.
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
    texts: Sequence[PackedText]
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
        vocabulary = PackedVocabulary(**given.pop("vocabulary"))
        return cls(
            vocabulary=PackedVocabulary(
                **{**asdict(vocabulary), "merges": [(first, second) for first, second in vocabulary.merges]}
            ),
            cleaning=Cleaning.from_dict(given.pop("cleaning")),
            texts=[PackedText(**text) for text in given.pop("texts")],
            training=Training(**given.pop("training")),
            **given,
        )


@dataclass(frozen=True)
class Pack:
    """A pack's file; its tensors are read when they are asked for."""

    path: Path
    info: PackInfo

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read the metadata.

        Raises:
            PackError: there is no such file, it is no language pack, it is damaged, or of a newer release.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = set(file.keys())
        except FileNotFoundError as error:
            raise PackError(f"{path} does not exist. Check the path.") from error
        except (SafetensorError, OSError) as error:
            raise PackError(f"{path} cannot be read as a language pack: {error}. Get the file again.") from error
        if _KEY not in metadata:
            raise PackError(
                f"{path} is a file of safetensors and no language pack. `xtts-extend export --output am{SUFFIX}` makes "
                "one of a run."
            )
        try:
            values = json.loads(metadata[_KEY])
            if values["format"] > FORMAT_VERSION:
                raise PackError(
                    f"{path} has format {values['format']}; this release reads up to {FORMAT_VERSION}. Install a newer "
                    "xtts_extend."
                )
            info = PackInfo.from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackError(
                f"{path} is damaged: its metadata lacks or mistakes {error}. Get the file again."
            ) from error
        except LanguageError as error:
            raise PackError(f"{path}: {error}") from error
        if names != set(info.tensors):
            raise PackError(f"{path} is damaged: it does not hold the tensors that it lists. Get the file again.")
        return cls(path, info)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.path.stat().st_size

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Its tensors as they are stored, mapped from the file. Not compared with their digests."""
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise PackError(f"{self.path} cannot be read: {error}. Get the file again.") from error

    def require_sound(self) -> None:
        """Compare every stored tensor with its digest.

        Raises:
            PackError: one differs; the first is named.
        """
        found = digests(self.stored)
        if wrong := [name for name, digest in self.info.tensors.items() if found[name] != digest]:
            raise PackError(
                f"{self.path} is damaged: {len(wrong)} of {len(found)} tensors are not what was written (the first: "
                f"{wrong[0]}). Get the file again."
            )

    def require_base(self, weights: Mapping[str, Tensor], where: Path) -> None:
        """Compare the digest of every tensor of a base.

        Args:
            weights: of `Xtts`, as `xtts_weights` gives them.
            where: they are from, for the message.

        Raises:
            PackError: it is another base than the pack's.
        """
        self.require_digests(digests(weights), where)

    def require_digests(self, found: Mapping[str, str], where: Path) -> None:
        """As `require_base`, for digests that are computed already."""
        expected = self.info.base
        wrong = [name for name in expected if found.get(name) != expected[name]]
        wrong += [name for name in found if name not in expected]
        if wrong:
            raise PackError(
                f"{self.path} is a pack of another base than {where}: {len(wrong)} of {len(expected)} tensors differ "
                f"(the first: {wrong[0]}). A pack fits only the very base that it was trained from."
            )

    def tensors(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What takes the place of the base's tensors for this language, by their names in `Xtts`, in float32.

        Args:
            base: the base's tensors; those that the pack changes are enough.
        """
        return changed_tensors(base, self.stored)

    def weights(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `Xtts` that speak this language, given all of the base's."""
        return {**base, **self.tensors(base)}

    def speaks(self, base: Vocabulary) -> PackedLanguage:
        """How text in this language becomes tokens.

        Args:
            base: the base's vocabulary.

        Raises:
            PackError: it is another base vocabulary than the pack's, or the texts that the pack carries become other
                tokens here than they were trained with.
        """
        vocabulary = self.info.vocabulary.joined(base)
        info = self.info
        language = PackedLanguage(info.language, vocabulary.tokenizer, info.cleaning, info.char_limit)
        self._compare_texts(language)
        return language

    def _compare_texts(self, language: PackedLanguage) -> None:
        info = self.info
        wrong = [text.text for text in info.texts if language.encode(text.text) != list(text.ids)]
        if not wrong:
            return
        found = f"{len(wrong)} of the {len(info.texts)} texts in it become other tokens here (the first: {wrong[0]!r})"
        here = version("num2words")
        if here != info.num2words:
            raise PackError(
                f"{self.path}: {found}. It was made with num2words {info.num2words}, and {here} is installed, which "
                f"writes some numbers in other words. Install num2words=={info.num2words}."
            )
        raise PackError(
            f"{self.path}: {found}. This release of xtts_extend does not clean or tokenize them as the one that made "
            f"the pack ({info.training.xtts_extend}). Install that release."
        )


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor: its type, its shape and its bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The digest of each tensor; several at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))


def write_pack(path: Path, info: PackInfo, tensors: Mapping[str, Tensor]) -> Pack:
    """Write a pack; the file appears complete or not at all.

    Args:
        path: ends in ".safetensors".
        info: without `tensors`, which are filled in.
        tensors: new rows under the names of the token tensors; factors of changes as adapters name them; and tensors
            that take the place of the base's, whole.

    Raises:
        MachineError: the disk is full or cannot be written to.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    values = {**info.to_dict(), "tensors": digests(contiguous)}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={_KEY: json.dumps(values, ensure_ascii=False)})
        except SafetensorError as error:
            raise _as_os_error(error) from error
    return Pack.open(path)


def _as_os_error(error: SafetensorError) -> OSError:
    """The cause of a failed write, which safetensors gives as text: "… (os error 28)"."""
    code = str(error).rpartition("os error ")[2].rstrip(") ")
    return OSError(int(code), str(error)) if code.isdigit() else OSError(str(error))
