"""A language pack: what a run learned beside its base, in one file of safetensors whose metadata says what it fits.

The metadata is one JSON object. It holds what a reader needs to check the pack (digests of the base and of the pack's
own tensors, texts with their ids) and what speaking needs beside tensors: the vocabulary's new entries, and how text is
cleaned, as data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xtts_extend.errors import LanguageError, PackError
from xtts_extend.files import atomic_path
from xtts_extend.model.adapter import changed_tensors
from xtts_extend.pack.pack_info import FORMAT_VERSION, PackInfo
from xtts_extend.text.tokenizer import PackedLanguage
from xtts_extend.text.vocabulary import Vocabulary

logger = logging.getLogger("trainer")

SUFFIX = ".safetensors"
#: Key of the JSON object in the metadata of the file, whose values are strings.
_KEY = "xtts_extend.pack"


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
                f"{path} is a safetensors file, but not a language pack. `xtts-extend export --output am{SUFFIX}` "
                "makes one of a run."
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
                f"{path} is damaged: a value in its metadata is missing or wrong: {error}. Get the file again."
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

    def require_intact(self) -> None:
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

    def require_base(self, found: Mapping[str, str], where: Path) -> None:
        """Compare the digest of every tensor of a base.

        Args:
            found: `digests` of the weights of `Xtts`, as `xtts_weights` gives them.
            where: they are from, for the message.

        Raises:
            PackError: it is another base than the pack's.
        """
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
                tokens here than they were trained with. Where num2words alone can be the cause, that is a warning.
        """
        info = self.info
        vocabulary = info.vocabulary.joined(base)
        language = PackedLanguage(info.language, vocabulary.tokenizer, info.cleaning, info.char_limit)
        self._compare_texts(language)
        return language

    def _compare_texts(self, language: PackedLanguage) -> None:
        info = self.info
        wrong = other_ids(language, info.texts)
        if not wrong:
            return
        found = f"{len(wrong)} of its {len(info.texts)} texts are tokenized differently here (the first: {wrong[0]!r})"
        here = version("num2words")
        if here != info.num2words and all(any(map(str.isdigit, text)) for text in wrong):
            logger.warning(
                " > %s: %s. It was made with num2words %s, and %s is installed, which writes some numbers in other "
                "words. Install num2words==%s to have them read as they were trained.",
                self.path,
                found,
                info.num2words,
                here,
                info.num2words,
            )
            return
        raise PackError(
            f"{self.path}: {found}. It was made with xtts_extend {info.training.xtts_extend}, which cleaned them in "
            "another way. Install that release."
        )


def other_ids(language: PackedLanguage, texts: Mapping[str, Sequence[int]]) -> list[str]:
    """The texts that become other token ids than they should."""
    return [text for text, ids in texts.items() if language.encode(text) != list(ids)]


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
            # safetensors makes files that nobody else can read
            temporary.chmod(0o666 & ~_umask())
        except SafetensorError as error:
            raise _as_os_error(error) from error
    return Pack.open(path)


def _umask() -> int:
    """The process's mask of permissions, which can only be asked by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _as_os_error(error: SafetensorError) -> OSError:
    """The cause of a failed write, which safetensors gives as text: "… (os error 28)"."""
    code = str(error).rpartition("os error ")[2].rstrip(") ")
    return OSError(int(code), str(error)) if code.isdigit() else OSError(str(error))
