"""Manage model folders, which contain a base model's files and a folder `packs` with one file per language.

When a pack is added, every tensor of the base and of the pack is checked, and the result is recorded. Loading then
reads only the checksums that torch.save stores in the archive. If these have changed, or if a pack was copied into the
folder by hand, everything is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from xtts_extend.checkpoint.inspect import inspect_checkpoint, load_pickled, weights_of
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import ConfigError, MachineError, PackError
from xtts_extend.files import atomic_path, atomic_write, copy_file, file_digest
from xtts_extend.model.gpt_trainer import merged_weights
from xtts_extend.pack.file import SUFFIX, Pack, digests
from xtts_extend.text.languages import language_tag
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger("trainer")

#: Name of the folder that contains the packs.
PACKS = "packs"
#: File in that folder that records which packs were checked against which base.
RECORD = "compared.json"
_NEEDED = ("config.json", "model.pth", "vocab.json")


@dataclass(frozen=True)
class _Record:
    """The contents of the file `RECORD`.

    Attributes:
        base: Checksum of the base's weights.
        packs: Language → digest of the pack's metadata, for each pack that matches the base.
    """

    base: str = ""
    packs: Mapping[str, str] = field(default_factory=dict)


class ModelFolder:
    """A base model's folder with its language packs.

    Raises:
        ConfigError: The folder or a file in it is missing.

    >>> folder = ModelFolder(Path("XTTS"))
    >>> folder.packs()
    {}
    >>> "en" in folder.vocabulary.languages
    True
    """

    def __init__(self, path: Path) -> None:
        missing = [name for name in _NEEDED if not (path / name).is_file()]
        if missing:
            raise ConfigError(
                f"{path} is not a model folder: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
                "Pass the folder of a base model, or one written by `xtts-extend export`."
            )
        self.path = path

    @property
    def model(self) -> Path:
        """The file with the base's weights."""
        return self.path / "model.pth"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The base's vocabulary."""
        return load_vocabulary(self.path / "vocab.json")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The base's tensors, memory-mapped from the file and keyed by their names in `Xtts`."""
        if inspect_checkpoint(self.model).kind == "training":
            raise PackError(
                f"{self.model} is a training checkpoint. A pack needs the base that the pack was trained from. Pass "
                "the folder of that base."
            )
        return merged_weights(load_checkpoint(self.model)[0])

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the base's tensors by name. All tensors are read on first use."""
        return digests(self.weights)

    def packs(self) -> dict[str, Pack]:
        """Return the packs by language, after checking that each matches the base. The packs' tensors are not read.

        Raises:
            PackError: A pack is damaged or was made for a different base, or two packs are for the same language.
        """
        return self._matching_base(self._open_packs())

    def _matching_base(self, packs: Iterable[Pack]) -> dict[str, Pack]:
        """Return packs by language, after checking those that are not recorded as matching the base; see `packs`."""
        found: dict[str, Pack] = {}
        for pack in packs:
            first = found.setdefault(pack.info.language, pack)
            if first is not pack:
                raise PackError(
                    f"{first.path} and {pack.path} are both packs for {pack.info.language}. Remove one of them."
                )
        if not found:
            return {}
        compared, base = self._read_record(), archive_checksum(self.model)
        new = {
            language: pack
            for language, pack in found.items()
            if compared.base != base or compared.packs.get(language) != _digest(pack)
        }
        if new:
            logger.info(
                " > Checking every tensor of the base in %s, because %s or the base has changed since the last "
                "`xtts-extend pack add`.",
                self.path,
                ", ".join(pack.path.name for pack in new.values()),
            )
        for pack in new.values():
            pack.require_base(self.digests, self.model)
        return found

    def add(self, file: Path) -> Pack:
        """Check that a pack matches the base, and copy the pack into the folder.

        A pack that is already in the folder under a different name is renamed.

        Args:
            file: The pack to add.

        Returns:
            The pack in the folder.

        Raises:
            PackError: The pack is damaged, was made for a different base, or is for a language that the folder already
                supports. Nothing is changed.
            MachineError: The folder cannot be written to. Nothing is changed.
        """
        pack = Pack.open(file)
        language = pack.info.language
        target = self.path / PACKS / f"{language}{SUFFIX}"
        self.require_new(language, file)
        if target.exists() and not target.samefile(file):
            raise PackError(
                f"{target} already exists and is a pack for a different language. Remove or rename it first."
            )
        self.compare(pack)
        others = self._matching_base(other for other in self._open_packs() if other.info.language != language)
        compared = {code: _digest(each) for code, each in {**others, language: pack}.items()}
        with _without_new_folder(target.parent):
            if target.parent.exists() and file.parent.samefile(target.parent):
                try:
                    file.rename(target)
                except OSError as error:
                    raise MachineError(f"Could not rename {file} to {target.name}: {error.strerror}.") from error
                self._write({"base": archive_checksum(self.model), "packs": compared})
                return Pack.open(target)
            with atomic_path(target) as temporary:
                copy_file(file, temporary)
            try:
                self._write({"base": archive_checksum(self.model), "packs": compared})
            except MachineError:
                target.unlink()
                raise
        return Pack.open(target)

    def require_new(self, language: str, file: Path) -> None:
        """Raise if the base or another pack already supports a language.

        Args:
            language: The language's code.
            file: The pack to add, which is ignored if it is already in the folder.

        Raises:
            PackError: The folder already supports the language.
        """
        if language_tag(language) in self.vocabulary.tokens:
            raise PackError(
                f"The base in {self.path} already supports {language}. A pack can add a language, but it cannot "
                "replace one of the base's languages."
            )
        for other in self._open_packs():
            if other.info.language == language and not (file.exists() and other.path.samefile(file)):
                raise PackError(
                    f"{self.path} already has a pack for {language}: {other.path}. Remove it first with `xtts-extend "
                    f"pack remove {language} --model {self.path}`."
                )

    def compare(self, pack: Pack) -> None:
        """Check the base's and the pack's tensors, and the sample texts' token ids, against the pack's metadata.

        Raises:
            PackError: Something has changed since the pack was made.
        """
        pack.require_base(self.digests, self.model)
        pack.require_intact()
        pack.packed_language(self.vocabulary)

    def remove(self, language: str) -> Path:
        """Remove the pack for a language.

        Returns:
            The removed file.

        Raises:
            PackError: There is no pack for the language.
            MachineError: The folder cannot be written to.
        """
        file = self.path / PACKS / f"{language}{SUFFIX}"
        # The pack is looked up by its file name first, so that a damaged pack can be removed.
        if not file.is_file():
            opened = {pack.info.language: pack.path for pack in self._open_packs()}
            file = opened.get(language) or self._no_pack(language, opened)
        try:
            file.unlink()
        except OSError as error:
            raise MachineError(f"Could not remove {file}: {error.strerror}.") from error
        compared = self._read_record()
        packs = {other: digest for other, digest in compared.packs.items() if other != language}
        self._write({"base": compared.base, "packs": packs})
        return file

    def pack(self, language: str) -> Pack:
        """Return the pack for a language.

        Raises:
            PackError: There is no pack for the language, or a pack is damaged or does not match the base.
        """
        packs = self.packs()
        return packs.get(language) or self._no_pack(language, packs)

    def _no_pack(self, language: str, packs: Iterable[str]) -> NoReturn:
        raise PackError(f"{self.path} has no pack for {language}. Available packs: {', '.join(packs) or 'none'}.")

    def _open_packs(self) -> Iterator[Pack]:
        yield from map(Pack.open, _files(self.path))

    def _read_record(self) -> _Record:
        """Return the record, or an empty one if it is missing or unreadable, so that everything is checked again."""
        try:
            values = json.loads((self.path / PACKS / RECORD).read_text(encoding="utf-8"))
            return _Record(str(values["base"]), dict(values["packs"]))
        except (OSError, ValueError, KeyError, TypeError):
            return _Record()

    def _write(self, record: Mapping[str, Any]) -> None:
        with atomic_write(self.path / PACKS / RECORD) as file:
            file.write(json.dumps(record, indent=2).encode())


def open_packs(folder: Path) -> dict[str, Pack]:
    """Return the packs in a model folder by language, or an empty dict if there are none.

    Raises:
        PackError: A pack is damaged or was made for a different base, or two packs are for the same language.
    """
    return ModelFolder(folder).packs() if _files(folder) else {}


def _files(folder: Path) -> list[Path]:
    """Return the pack files, ignoring hidden files, which interrupted copies and macOS leave behind."""
    return sorted(file for file in (folder / PACKS).glob(f"*{SUFFIX}") if not file.name.startswith("."))


def open_spec(spec: str) -> tuple[ModelFolder, Pack]:
    """Return the model folder and the pack named by FOLDER:LANG.

    Raises:
        ConfigError: `spec` does not have this form, or the folder is not a model folder.
        PackError: The folder has no pack for the language, or the pack does not match its base.
    """
    path, _, language = spec.rpartition(":")
    if not path or not language:
        raise ConfigError(f"Expected FOLDER:LANG (a model folder and the language of one of its packs), got {spec!r}.")
    folder = ModelFolder(Path(path).expanduser())
    return folder, folder.pack(language)


def vocabulary_of(spec: str) -> Vocabulary:
    """Return a file's vocabulary or, for FOLDER:LANG, the base's vocabulary with a pack's entries appended.

    Args:
        spec: A path, or FOLDER:LANG.

    Raises:
        ConfigError, PackError: See `open_spec`.
        VocabularyError: The file is not a vocabulary.
    """
    if Path(spec).exists() or ":" not in spec:
        return load_vocabulary(Path(spec))
    folder, pack = open_spec(spec)
    return pack.info.vocabulary.joined(folder.vocabulary)


def archive_checksum(path: Path) -> str:
    """Return a digest of the checksums that torch.save stores for tensors, or of the file's bytes if there are none.

    Saving the same tensors again in the same order gives the same digest.
    """
    records: list[tuple[str, int, int]] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            records = [
                (record.filename.partition("/data/")[2], record.CRC, record.file_size)
                for record in archive.infolist()
                if "/data/" in record.filename
            ]
    if not any(checksum for _, checksum, _ in records):
        return file_digest(path)
    weights, _ = weights_of(load_pickled(path, map_location="meta"), path)
    names = [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in weights.items()]
    return hashlib.sha256(json.dumps([names, records]).encode()).hexdigest()


def _digest(pack: Pack) -> str:
    """Return a digest of a pack's metadata, which contains the digests of all its tensors."""
    return hashlib.sha256(json.dumps(pack.info.to_dict(), sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _without_new_folder(folder: Path) -> Iterator[None]:
    """Remove the folder on exit if it was created in the `with` block and left empty."""
    existed = folder.exists()
    try:
        yield
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
