"""Vocabulary statistics, and a check that an extended vocabulary tokenizes the old languages as its base does."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from xtts_extend.data.rows import texts_of_manifest
from xtts_extend.errors import DataError
from xtts_extend.notices import warn_once
from xtts_extend.text.languages import CLEANER_ERRORS, clean_text, compose_stock, is_stock, language_tag
from xtts_extend.text.vocabulary import Vocabulary, count_closed_gaps, encode_all, load_vocabulary

_EXAMPLES = 10


@dataclass(frozen=True)
class TextMeasure:
    """Statistics on how a vocabulary tokenizes a text. Language tags and [SPACE] are not counted.

    Attributes:
        unknown_share: Share of [UNK] among the tokens for letters, digits and symbols. Known punctuation is not
            counted, because commas and the like would make an unknown script look partly known.
        tokens_per_word: Mean number of tokens per word. Words are separated by spaces.
    """

    unknown_share: float
    tokens_per_word: float


@dataclass(frozen=True)
class VocabularyCheck:
    """Results of `check_vocabulary`.

    Attributes:
        changed_ids: Number of old tokens that have a different id or are missing.
        changed_lines: Number of lines that are tokenized differently.
        unknown_share: Share of unknown tokens with the new vocabulary; see `TextMeasure`.
        dead_entries: Number of new entries that are never used, not even to tokenize their own text.
        checked_lines: Number of lines that were compared.
        skipped_lines: Number of lines that the old vocabulary cannot spell or that the language's cleaner fails on.
        changed_id_names: Up to ten of the old tokens with changed ids.
        changed_line_examples: Up to ten of the changed lines, each with the path of its file.
        dead_entry_names: Up to ten of the dead entries.
    """

    changed_ids: int
    changed_lines: int
    unknown_share: float
    dead_entries: int
    checked_lines: int
    skipped_lines: int
    changed_id_names: list[str] = field(default_factory=list)
    changed_line_examples: list[str] = field(default_factory=list)
    dead_entry_names: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all old tokens keep their ids and all old lines keep their tokens."""
        return self.changed_ids == 0 and self.changed_lines == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the results as a JSON-serializable dict."""
        return {"ok": self.ok, **asdict(self)}


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, without a byte order mark.

    Raises:
        DataError: The file cannot be read, or is not UTF-8. The message gives the offset of the invalid byte.
    """
    offset = number = 0
    try:
        with open(path, "rb") as file:
            for raw in file:
                number += 1
                yield raw.decode("utf-8-sig" if offset == 0 else "utf-8")
                offset += len(raw)
    except OSError as error:
        raise DataError(f"Text file {path} cannot be read: {error.strerror}. Expected a UTF-8 text file.") from error
    except UnicodeDecodeError as error:
        at = offset + len(raw) - len(error.object) + error.start
        raise DataError(
            f"Text file {path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {at}, on line {number}. "
            "Convert it, for example with `iconv -t UTF-8`."
        ) from error


def read_texts(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Iterable[str], bool]:
    """Return the lines of a text file or the texts of a manifest, and whether the file is a manifest.

    Args:
        path: A text file or a manifest.
        columns: Columns of the manifest; see `rows.texts_of_manifest`.
    """
    texts = texts_of_manifest(path, columns) if path.is_file() else None
    return (read_lines(path), False) if texts is None else (texts, True)


def measure(tokenizer: Tokenizer, words: Counter[str]) -> TextMeasure:
    """Return statistics on how a tokenizer splits the words of a cleaned text.

    Args:
        tokenizer: Tokenizer from the `tokenizers` library.
        words: Count of each word.
    """
    unknown_id = tokenizer.token_to_id("[UNK]")
    unknown = spelled = tokens = 0
    for (_, count), encoding in zip(words.items(), encode_all(tokenizer, words), strict=True):
        unknown_here = encoding.ids.count(unknown_id)
        unknown += count * unknown_here
        spelled += count * (unknown_here + sum(_spells(token) for token in encoding.tokens))
        tokens += count * len(encoding.ids)
    return TextMeasure(unknown / spelled if spelled else 0.0, tokens / (words.total() or 1))


def _spells(token: str) -> bool:
    return token != "[UNK]" and any(unicodedata.category(character)[0] in "LMNS" for character in token)


def dead_entries(base: Vocabulary, extended: Vocabulary) -> list[str]:
    """Return the new entries that the extended vocabulary never uses, not even to tokenize their own text."""
    new = [token for token in extended.tokens if token not in base.tokens]
    encodings = encode_all(extended.tokenizer, new)
    return [token for token, encoding in zip(new, encodings, strict=True) if encoding.ids != [extended.tokens[token]]]


def check_vocabulary(
    base_vocab: Path, vocab: Path, texts: Sequence[Path], columns: Mapping[str, str] | None = None
) -> VocabularyCheck:
    """Check whether an extended vocabulary keeps its base's ids and tokenizes the lines of text files as the base does.

    Lines are cleaned as in coqui, tagged if both vocabularies have the language's tag, and tokenized as in stock
    coqui-tts. A file's language is the stem of its name if coqui or one of the vocabularies supports it (`en.txt`,
    `udhr/am.txt`); otherwise, it is English. Lines that the old vocabulary cannot spell are skipped.

    >>> _ = Path("en.txt").write_text("The old farmer found a silver key.")
    >>> check = check_vocabulary(Path("XTTS/vocab.json"), Path("am/vocab.json"), [Path("en.txt")])
    >>> check.ok, check.checked_lines, check.changed_lines
    (True, 1, 0)

    Args:
        base_vocab: The base's vocabulary file.
        vocab: The extended vocabulary file.
        texts: UTF-8 text files, or manifests, from which only the texts are read.
        columns: Columns of the manifests, from `data.columns.parse_columns`. By default, they are detected.

    Raises:
        VocabularyError: A vocabulary cannot be read.
        DataError: A text file cannot be read, or all of them are empty.
    """
    base, extended = load_vocabulary(base_vocab), load_vocabulary(vocab)
    moved = [token for token, index in base.tokens.items() if extended.tokens.get(token) != index]
    if closed := count_closed_gaps(base.tokens, extended.tokens):
        warn_once(f"{len(moved)} ids changed, {closed} of them because gaps in the base's token ids were closed.")
    dead = dead_entries(base, extended)
    changed: list[str] = []
    words: Counter[str] = Counter()
    checked = skipped = decomposed = 0
    for path in texts:
        language = _language_of(Path(path), {*base.languages, *extended.languages})
        tag = language_tag(language)
        tag = tag if tag in base.tokens and tag in extended.tokens else ""
        lines: list[str] = []
        for line in read_texts(Path(path), columns)[0]:
            composed = compose_stock(line, language)
            decomposed += composed != line
            try:
                cleaned = clean_text(composed, language)
            except CLEANER_ERRORS:
                skipped += 1
                continue
            if cleaned:
                lines.append(cleaned)
                words.update(cleaned.split())
        inputs = [(tag + line).replace(" ", "[SPACE]") for line in lines]
        pairs = zip(lines, encode_all(base.tokenizer, inputs), encode_all(extended.tokenizer, inputs), strict=True)
        for line, old, new in pairs:
            if base.unk_id in old.ids:
                skipped += 1
                continue
            checked += 1
            if old.ids != new.ids:
                changed.append(f"{path}: {line}")
    if decomposed:
        warn_once(f"Combining accents were composed (NFD to NFC). Number of lines affected: {decomposed}.")
    if texts and not checked + skipped:
        raise DataError(
            f"There is no text in {', '.join(map(str, texts))}, so nothing was compared. Pass files that contain text."
        )
    return VocabularyCheck(
        changed_ids=len(moved),
        changed_lines=len(changed),
        unknown_share=measure(extended.tokenizer, words).unknown_share,
        dead_entries=len(dead),
        checked_lines=checked,
        skipped_lines=skipped,
        changed_id_names=moved[:_EXAMPLES],
        changed_line_examples=changed[:_EXAMPLES],
        dead_entry_names=dead[:_EXAMPLES],
    )


def _language_of(path: Path, codes: set[str]) -> str:
    stem = path.stem.lower()
    return stem if stem in codes or is_stock(stem) else "en"
