"""Measures vocabularies on text, and proves that an extended one cuts old text as the old one did."""

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
    """How a vocabulary spells a text. Both numbers leave out language tags and [SPACE].

    `unknown_share`: of the tokens that spell letters, digits or signs, the share that is [UNK]; punctuation that the
    vocabulary knows is not counted, or a foreign script would look partly known by its commas.
    `tokens_per_word`: tokens per word, a word being what stands between spaces.
    """

    unknown_share: float
    tokens_per_word: float


@dataclass(frozen=True)
class VocabularyCheck:
    """What `check_vocabulary` found; `ok` is the promise that what the model knew stays.

    `skipped_lines` are those that the old vocabulary cannot spell, or that coqui's own cleaning fails on.
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
        return self.changed_ids == 0 and self.changed_lines == 0

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file, a byte order mark accepted. DataError for what cannot be read, with the byte."""
    offset = number = 0
    try:
        with open(path, "rb") as file:
            for raw in file:
                number += 1
                yield raw.decode("utf-8-sig" if offset == 0 else "utf-8")
                offset += len(raw)
    except OSError as error:
        raise DataError(f"Text {path} cannot be read: {error.strerror}. Expected a UTF-8 text file.") from error
    except UnicodeDecodeError as error:
        at = offset + len(raw) - len(error.object) + error.start
        raise DataError(
            f"Text {path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {at}, in line {number}. "
            "Convert it, for example with `iconv -t UTF-8`."
        ) from error


def read_texts(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Iterable[str], bool]:
    """The lines of a text file or the texts of a manifest, and whether it is one; see `rows.texts_of_manifest`."""
    texts = texts_of_manifest(path, columns) if path.is_file() else None
    return (read_lines(path), False) if texts is None else (texts, True)


def measure(tokenizer: Tokenizer, words: Counter[str]) -> TextMeasure:
    """Measure a tokenizer on the words of a cleaned text, given with how often each occurs."""
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
    """New entries that the extended vocabulary never gives, not even for the entry's own text."""
    new = [token for token in extended.tokens if token not in base.tokens]
    encodings = encode_all(extended.tokenizer, new)
    return [token for token, encoding in zip(new, encodings, strict=True) if encoding.ids != [extended.tokens[token]]]


def check_vocabulary(
    base_vocab: Path, vocab: Path, texts: Sequence[Path], columns: Mapping[str, str] | None = None
) -> VocabularyCheck:
    """Compare an extended vocabulary with its base, id by id, and line by line on any text.

    Of manifests only the texts count; `columns` says where they are, if that is not to be recognised.

    A line is cleaned as coqui cleans its language, tagged where both vocabularies hold the tag, and cut with both by
    the tokenizer that stock coqui-tts uses. The language of a file is the stem of its name when coqui or one of the
    vocabularies knows it (`en.txt`, `udhr/am.txt`), English otherwise. Lines that the old vocabulary cannot spell do
    not count. Raises VocabularyError and DataError for files that cannot be read.
    """
    base, extended = load_vocabulary(base_vocab), load_vocabulary(vocab)
    moved = [token for token, index in base.tokens.items() if extended.tokens.get(token) != index]
    if closed := count_closed_gaps(base.tokens, extended.tokens):
        warn_once(f"{closed} of the {len(moved)} ids that moved did so because the base's gaps were closed.")
    dead = dead_entries(base, extended)
    changed: list[str] = []
    words: Counter[str] = Counter()
    checked = skipped = apart = 0
    for path in texts:
        language = _language_of(Path(path), {*base.languages, *extended.languages})
        tag = language_tag(language)
        tag = tag if tag in base.tokens and tag in extended.tokens else ""
        lines: list[str] = []
        for line in read_texts(Path(path), columns)[0]:
            composed = compose_stock(line, language)
            apart += composed != line
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
    if apart:
        warn_once(f"The accents of {apart} lines were separate (NFD): composed.")
    if texts and not checked + skipped:
        raise DataError(f"There is no text in {', '.join(map(str, texts))}: nothing was compared. Give some.")
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
