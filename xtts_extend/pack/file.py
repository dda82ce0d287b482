"""Read and write language packs, each of which stores a run's changes to its base model in one safetensors file.

The metadata is one JSON object. It contains what is needed to check the pack (digests of the base's and the pack's
tensors, and sample texts with their token ids) and what is needed for speech besides the tensors: the vocabulary's new
entries and the cleaning steps.
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
#: Key in the file's metadata under which the JSON object is stored as a string.
_KEY = "xtts_extend.pack"
_GET_AGAIN = "Copy or download it again."


@dataclass(frozen=True)
class Pack:
    """A language pack, whose tensors are read when they are first used.

    Attributes:
        path: The file.
        info: Its metadata.
    """

    path: Path
    info: PackInfo

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Open a pack and read its metadata.

        Raises:
            PackError: The file is missing, damaged or not a language pack, or was written by a newer release.

        >>> pack = Pack.open(Path("am.safetensors"))
        >>> pack.info.language, pack.info.training.steps
        ('am', 3)
        >>> pack.require_intact()
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = set(file.keys())
        except FileNotFoundError as error:
            raise PackError(f"{path} does not exist. Check the path.") from error
        except (SafetensorError, OSError) as error:
            raise PackError(f"{path} cannot be read as a language pack: {error}. {_GET_AGAIN}") from error
        if _KEY not in metadata:
            raise PackError(
                f"{path} is a safetensors file, but not a language pack. Create one from a run with `xtts-extend "
                f"export --output am{SUFFIX}`."
            )
        try:
            values = json.loads(metadata[_KEY])
            if values["format"] > FORMAT_VERSION:
                raise PackError(
                    f"{path} has pack format {values['format']}, but this release can only read formats up to "
                    f"{FORMAT_VERSION}. Install a newer version of xtts_extend."
                )
            info = PackInfo.from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackError(
                f"{path} is damaged: a value in its metadata is missing or invalid ({error}). {_GET_AGAIN}"
            ) from error
        except LanguageError as error:
            raise PackError(f"{path}: {error}") from error
        if names != set(info.tensors):
            raise PackError(f"{path} is damaged: its tensors do not match its metadata. {_GET_AGAIN}")
        return cls(path, info)

    @property
    def size_bytes(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """The tensors as stored in the file, without checking them against their digests."""
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise PackError(f"{self.path} cannot be read: {error}. {_GET_AGAIN}") from error

    def require_intact(self) -> None:
        """Raise unless every stored tensor matches its digest.

        Raises:
            PackError: A tensor does not match. The message names the first one.
        """
        found = digests(self.stored)
        if wrong := [name for name, digest in self.info.tensors.items() if found[name] != digest]:
            raise PackError(
                f"{self.path} is damaged: checksum mismatch in {len(wrong)} of {len(found)} tensors (first: "
                f"{wrong[0]}). {_GET_AGAIN}"
            )

    def require_base(self, found: Mapping[str, str], where: Path) -> None:
        """Raise unless every tensor of a base model matches the base that the pack was made for.

        Args:
            found: `digests` of the base's weights, keyed by their names in `Xtts`.
            where: The base's file or folder, for the message.

        Raises:
            PackError: The pack was made for a different base.
        """
        expected = self.info.base
        wrong = [name for name in expected if found.get(name) != expected[name]]
        wrong += [name for name in found if name not in expected]
        if wrong:
            raise PackError(
                f"{self.path} was made for a different base than {where}: {len(wrong)} of {len(expected)} tensors "
                f"differ (first: {wrong[0]}). Use the exact base that the pack was trained from."
            )

    def tensors(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that replace the base's for this language, in float32, keyed by their names in `Xtts`.

        Args:
            base: The base's tensors by name; only those that the pack changes are needed.
        """
        return changed_tensors(base, self.stored)

    def weights(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights of `Xtts` for this language.

        Args:
            base: All tensors of the base by name.
        """
        return {**base, **self.tensors(base)}

    def packed_language(self, base: Vocabulary) -> PackedLanguage:
        """Return the text cleaning and the tokenizer for this language.

        If sample texts are tokenized differently and a different version of num2words may be the cause, only a warning
        is logged.

        Args:
            base: The base's vocabulary.

        Raises:
            PackError: The pack was made for a different base vocabulary, or the pack's sample texts are not
                tokenized as they were in training.
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
        found = (
            f"sample texts are tokenized differently than in training ({len(wrong)} of {len(info.texts)}; first: "
            f"{wrong[0]!r})"
        )
        installed = version("num2words")
        if installed != info.num2words and all(any(map(str.isdigit, text)) for text in wrong):
            logger.warning(
                " > %s: %s. The pack was made with num2words %s, but the installed version, %s, spells out some "
                "numbers differently. Continuing. To have numbers read as in training, install num2words==%s.",
                self.path,
                found,
                info.num2words,
                installed,
                info.num2words,
            )
            return
        raise PackError(
            f"{self.path}: {found}. The pack was made with xtts_extend {info.training.xtts_extend}, which cleans text "
            "differently. Install that version."
        )


def other_ids(language: PackedLanguage, texts: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the texts that are tokenized differently than expected.

    Args:
        language: The language's cleaning and tokenizer.
        texts: Text → expected token ids.
    """
    return [text for text, ids in texts.items() if language.encode(text) != list(ids)]


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Compute the digests of tensors in several threads, and return them by tensor name."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))


def write_pack(path: Path, info: PackInfo, tensors: Mapping[str, Tensor]) -> Pack:
    """Write a pack atomically and open it.

    Args:
        path: The file to write, ending in ".safetensors".
        info: The metadata, whose `tensors` are filled in here.
        tensors: New rows under the names of the token tensors, factors of changed matrices under the names that
            adapters give them, and tensors that replace the base's.

    Raises:
        MachineError: The disk is full or cannot be written to.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    values = {**info.to_dict(), "tensors": digests(contiguous)}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={_KEY: json.dumps(values, ensure_ascii=False)})
            # safetensors creates files that only their owner can read.
            temporary.chmod(0o666 & ~_umask())
        except SafetensorError as error:
            raise _as_os_error(error) from error
    return Pack.open(path)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _as_os_error(error: SafetensorError) -> OSError:
    """Return the OSError behind a failed write, whose error number is in safetensors' message: "… (os error 28)"."""
    code = str(error).rpartition("os error ")[2].rstrip(") ")
    return OSError(int(code), str(error)) if code.isdigit() else OSError(str(error))
