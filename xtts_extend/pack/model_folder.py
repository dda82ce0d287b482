"""A model folder: a base's files, and a folder `packs` with a file for each language beside them.

Every tensor of the base and of a pack is compared when a pack is added. What was compared is recorded then, so that
loading asks only for the checksums that torch.save keeps in the archive; where these are other ones, or a file lies
there that nobody added, everything is compared again.
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
from xtts_extend.data.encoded import file_digest
from xtts_extend.errors import ConfigError, MachineError, PackError
from xtts_extend.files import atomic_path, atomic_write, copy_file
from xtts_extend.model.gpt_trainer import merged_weights
from xtts_extend.pack.file import SUFFIX, Pack, digests
from xtts_extend.text.languages import language_tag
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger("trainer")

PACKS = "packs"
#: What was compared, in the folder of the packs.
RECORD = "compared.json"
_NEEDED = ("config.json", "model.pth", "vocab.json")


@dataclass(frozen=True)
class _Record:
    """What `RECORD` says.

    Attributes:
        base: checksum of the base's weights.
        packs: digest of the metadata of each pack that fits it, by its language.
    """

    base: str = ""
    packs: Mapping[str, str] = field(default_factory=dict)


class ModelFolder:
    """A base's folder with its packs.

    Raises:
        ConfigError: it does not exist, or lacks a file.
    """

    def __init__(self, path: Path) -> None:
        missing = [name for name in _NEEDED if not (path / name).is_file()]
        if missing:
            raise ConfigError(
                f"{path} is not a model folder: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
                "Give the folder of a base model, or one that `xtts-extend export` wrote."
            )
        self.path = path

    @property
    def model(self) -> Path:
        """The base's weights."""
        return self.path / "model.pth"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The base's."""
        return load_vocabulary(self.path / "vocab.json")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The base's tensors under the names of `Xtts`, mapped from the file."""
        if inspect_checkpoint(self.model).kind == "training":
            raise PackError(
                f"{self.model} is a training checkpoint; a pack lies beside the base that it was trained from. Give "
                "that base's folder."
            )
        return merged_weights(load_checkpoint(self.model)[0])

    @cached_property
    def digests(self) -> dict[str, str]:
        """Of the base's tensors, by their names; this reads all of them."""
        return digests(self.weights)

    def packs(self) -> dict[str, Pack]:
        """The packs by their languages, each known to fit the base; their tensors are not read.

        Raises:
            PackError: one is damaged, or of another base, or two are of one language.
        """
        return self._matching_base(self._open_packs())

    def _matching_base(self, packs: Iterable[Pack]) -> dict[str, Pack]:
        """Packs by their languages, as `packs`."""
        found: dict[str, Pack] = {}
        for pack in packs:
            first = found.setdefault(pack.info.language, pack)
            if first is not pack:
                raise PackError(
                    f"{first.path} and {pack.path} are both packs of {pack.info.language}. Remove one of them."
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
                " > %s: every tensor of the base is compared, because %s or the base changed since `xtts-extend pack "
                "add` compared them last.",
                self.path,
                ", ".join(pack.path.name for pack in new.values()),
            )
        for pack in new.values():
            pack.require_base(self.digests, self.model)
        return found

    def add(self, file: Path) -> Pack:
        """Compare a pack with the base and copy it into the folder.

        Returns:
            The copy.

        Raises:
            PackError: it is damaged, of another base, or of a language that the folder speaks already; nothing changed.
            MachineError: the folder cannot be written to; nothing changed.
        """
        pack = Pack.open(file)
        language = pack.info.language
        target = self.path / PACKS / f"{language}{SUFFIX}"
        self.require_new(language, file)
        if target.exists() and not target.samefile(file):
            raise PackError(f"{target} exists already, and is a pack of another language. Remove or rename it first.")
        self.compare(pack)
        others = self._matching_base(other for other in self._open_packs() if other.info.language != language)
        compared = {code: _digest(one) for code, one in {**others, language: pack}.items()}
        with _without_new_folder(target.parent):
            if target.parent.exists() and file.parent.samefile(target.parent):
                try:
                    file.rename(target)
                except OSError as error:
                    raise MachineError(f"{file} cannot be renamed to {target.name}: {error.strerror}.") from error
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
        """Stop where the base or another pack speaks a language already.

        Raises:
            PackError: it does.
        """
        if language_tag(language) in self.vocabulary.tokens:
            raise PackError(
                f"The base in {self.path} speaks {language} itself. A pack adds a language, and never takes the place "
                "of one of the base's."
            )
        for other in self._open_packs():
            if other.info.language == language and not (file.exists() and other.path.samefile(file)):
                raise PackError(
                    f"{self.path} has a pack of {language} already: {other.path}. Remove it first with `xtts-extend "
                    f"pack remove {language} --model {self.path}`."
                )

    def compare(self, pack: Pack) -> None:
        """Compare everything of a pack: its own tensors, the base's, and the ids of its texts.

        Raises:
            PackError: something is not as it was when the pack was made.
        """
        pack.require_base(self.digests, self.model)
        pack.require_intact()
        pack.speaks(self.vocabulary)

    def remove(self, language: str) -> Path:
        """Remove the pack of a language.

        Returns:
            The file that was removed.

        Raises:
            PackError: there is none.
            MachineError: the folder cannot be written to.
        """
        file = self.path / PACKS / f"{language}{SUFFIX}"
        # by its name, so that a damaged one can be removed
        if not file.is_file():
            opened = {pack.info.language: pack.path for pack in self._open_packs()}
            file = opened.get(language) or self._no_pack(language, opened)
        try:
            file.unlink()
        except OSError as error:
            raise MachineError(f"{file} cannot be removed: {error.strerror}.") from error
        compared = self._read_record()
        packs = {other: digest for other, digest in compared.packs.items() if other != language}
        self._write({"base": compared.base, "packs": packs})
        return file

    def pack(self, language: str) -> Pack:
        """The pack of a language.

        Raises:
            PackError: there is none, or as `packs`.
        """
        packs = self.packs()
        return packs.get(language) or self._no_pack(language, packs)

    def _no_pack(self, language: str, packs: Iterable[str]) -> NoReturn:
        raise PackError(f"{self.path} has no pack of {language}. Its packs: {', '.join(packs) or 'none'}.")

    def _open_packs(self) -> Iterator[Pack]:
        yield from map(Pack.open, _files(self.path))

    def _read_record(self) -> _Record:
        """What was compared; nothing where the record is missing or not to be read, and all is compared again."""
        try:
            values = json.loads((self.path / PACKS / RECORD).read_text(encoding="utf-8"))
            return _Record(str(values["base"]), dict(values["packs"]))
        except (OSError, ValueError, KeyError, TypeError):
            return _Record()

    def _write(self, record: Mapping[str, Any]) -> None:
        with atomic_write(self.path / PACKS / RECORD) as file:
            file.write(json.dumps(record, indent=2).encode())


def open_packs(folder: Path) -> dict[str, Pack]:
    """The packs beside the model of a folder, by their languages; none where it has none.

    Raises:
        PackError: one is damaged, or of another base, or two are of one language.
    """
    return ModelFolder(folder).packs() if _files(folder) else {}


def _files(folder: Path) -> list[Path]:
    """Of the packs; hidden ones are what a killed copy or a Mac leaves."""
    return sorted(file for file in (folder / PACKS).glob(f"*{SUFFIX}") if not file.name.startswith("."))


def open_spec(spec: str) -> tuple[ModelFolder, Pack]:
    """The model folder and the pack that FOLDER:LANG names.

    Raises:
        ConfigError: it names no folder and language, or no model folder.
        PackError: the folder has no pack of the language, or one that does not fit.
    """
    path, _, language = spec.rpartition(":")
    if not path or not language:
        raise ConfigError(f"{spec!r}: expected FOLDER:LANG, a model folder and the language of one of its packs.")
    folder = ModelFolder(Path(path).expanduser())
    return folder, folder.pack(language)


def vocabulary_of(spec: str) -> Vocabulary:
    """The vocabulary that is extended: of a file, or of FOLDER:LANG, the base's with what a pack has after it.

    Raises:
        ConfigError, PackError: as `open_spec`.
        VocabularyError: the file is no vocabulary.
    """
    if Path(spec).exists() or ":" not in spec:
        return load_vocabulary(Path(spec))
    folder, pack = open_spec(spec)
    return pack.info.vocabulary.joined(folder.vocabulary)


def archive_checksum(path: Path) -> str:
    """A digest of the checksums that torch.save keeps of a file's tensors; where it keeps none, of the file's bytes.

    It is the same for a file that was saved again with the same tensors in the same order.
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
    """Of the metadata, which has the digests of all tensors."""
    return hashlib.sha256(json.dumps(pack.info.to_dict(), sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _without_new_folder(folder: Path) -> Iterator[None]:
    """Remove a folder that the block made and left empty."""
    existed = folder.exists()
    try:
        yield
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
