"""Cache the checks of texts, so that a later start does not clean and tokenize every text again.

There is one file per language, with a row for each text that was checked: a digest of the text, its numbers of tokens
and letters, and as JSON whatever there is to report. The file's first line has a digest of everything that the checks
depend on, and a digest of the rows. A file whose first line differs from what is expected is ignored and replaced. Rows
of texts that are no longer used by any manifest stay in the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.data import text_checks, unspoken
from xtts_extend.data.text_checks import TextCheck, check_text
from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.files import atomic_write
from xtts_extend.notices import warn_once
from xtts_extend.text.tokenizer import tokenization_digest

logger = logging.getLogger("trainer")
#: The beginning of every cache file.
_CACHE_NAME = b"xtts_extend texts, "
_KEY_BYTES = 16
_SCHEMA = pa.schema(
    [
        ("key", pa.binary(_KEY_BYTES)),
        ("tokens", pa.int32()),
        ("letters", pa.int32()),
        # Null if there is nothing to report.
        ("details", pa.string()),
    ]
)


class CheckedTexts:
    """The checks of texts, from a cache where possible.

    Texts in a language whose cleaner is a Python function are not cached, because the function may depend on anything.
    Neither are texts that the cleaner failed on.

    Args:
        tokenizer: The model's tokenizer.
        cache: Cache of recordings. The files of this cache are beside it, and their names begin with its name. If it
            is None, nothing is cached.
    """

    def __init__(self, tokenizer: VoiceBpeTokenizer, cache: Path | None) -> None:
        self._tokenizer, self._cache = tokenizer, cache
        self._files: dict[str, _File | None] = {}

    def check(self, text: str, language: str) -> TextCheck:
        """Return the result of `check_text`, and log again what cleaning the text logged."""
        # A variant such as "pt-br" is cleaned and tokenized like its language.
        code = language.split("-")[0]
        if code not in self._files:
            self._files[code] = self._open(code)
        file = self._files[code]
        if file is None:
            return check_text(text, language, self._tokenizer)
        return file.find(text, lambda: check_text(text, language, self._tokenizer))

    def save(self) -> None:
        """Add the new checks to the files. If this fails, log a warning."""
        for file in self._files.values():
            if file is not None:
                file.save()

    def _open(self, code: str) -> _File | None:
        if self._cache is None:
            return None
        digest = tokenization_digest(self._tokenizer, code)
        if digest is None:
            return None
        settings = hashlib.sha256((digest + _code_digest()).encode()).hexdigest()
        return _File(self._cache.with_name(f".{self._cache.name.removeprefix('.')}.{code}.texts"), settings)


@cache
def _code_digest() -> str:
    """Return a digest of the code that checks texts and of the format of the files."""
    files = (text_checks.__file__, unspoken.__file__, __file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


class _File:
    """The cached checks of the texts in one language.

    Args:
        path: The file.
        settings: Digest of everything that the checks depend on besides the text.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._path, self._settings = path, settings
        self._table = self._load()
        self._rows = {key: row for row, key in enumerate(self._table["key"].to_pylist())}
        self._tokens, self._letters = self._table["tokens"].to_pylist(), self._table["letters"].to_pylist()
        self._details = self._table["details"].to_pylist()
        self._new: dict[bytes, TextCheck] = {}

    def find(self, text: str, check: Callable[[], TextCheck]) -> TextCheck:
        """Return the cached check of a text, or call `check` and cache what it returns."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
        row = self._rows.get(key)
        if row is None:
            if key not in self._new:
                checked = check()
                if "text_error" in checked.problems:
                    return checked
                self._new[key] = checked
            return self._new[key]
        if self._details[row] is None:
            return TextCheck(self._tokens[row], self._letters[row])
        problems, warnings, notices = json.loads(self._details[row])
        for notice in notices:
            warn_once(notice)
        return TextCheck(self._tokens[row], self._letters[row], problems, [(kind, text) for kind, text in warnings])

    def save(self) -> None:
        if not self._new:
            return
        columns = {
            "key": list(self._new),
            "tokens": [checked.tokens for checked in self._new.values()],
            "letters": [checked.letters for checked in self._new.values()],
            "details": [_details(checked) for checked in self._new.values()],
        }
        table = pa.concat_tables([self._table, pa.table(columns, _SCHEMA)])
        body = pa.BufferOutputStream()
        with pa.ipc.new_file(body, _SCHEMA) as writer:
            writer.write_table(table)
        content = body.getvalue().to_pybytes()
        try:
            with atomic_write(self._path) as file:
                file.write(self._header(content))
                file.write(content)
        except (ConfigError, MachineError) as error:
            warn_once(f"The cache of checked texts was not saved. The next start will check all texts again. {error}")

    def _load(self) -> pa.Table:
        try:
            content = self._path.read_bytes()
        except OSError:
            # If there is a file that cannot be read, `save` warns when it cannot replace it.
            return _SCHEMA.empty_table()
        header, _, body = content.partition(b"\n")
        if header + b"\n" != self._header(body):
            if header.startswith(_CACHE_NAME + self._settings.encode()):
                logger.warning(" > %s is damaged. All texts will be checked again.", self._path)
            return _SCHEMA.empty_table()
        return pa.ipc.open_file(pa.BufferReader(body)).read_all()

    def _header(self, body: bytes) -> bytes:
        return _CACHE_NAME + f"{self._settings} {hashlib.sha256(body).hexdigest()}\n".encode()


def _details(checked: TextCheck) -> str | None:
    """Return what there is to report about a text as JSON."""
    details = (checked.problems, checked.warnings, checked.notices)
    return json.dumps(details) if any(details) else None
