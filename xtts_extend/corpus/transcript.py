"""Read the text of a recording from a plain text file."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from xtts_extend.corpus.words import Word, split_words
from xtts_extend.data.columns import has_suffix
from xtts_extend.data.corpora import require_text
from xtts_extend.data.tables import is_json, read_text, split_line
from xtts_extend.data.unspoken import find_damage, without_directions
from xtts_extend.errors import DataError

logger = logging.getLogger("trainer")

#: Encodings of text files from before Unicode, by language.
_CODE_PAGES = {
    "cp1250": ("cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq"),
    "cp1251": ("be", "bg", "kk", "mk", "ru", "sr", "tg", "uk"),
    "cp1252": ("af", "ca", "da", "de", "en", "es", "eu", "fi", "fr", "ga", "gl", "id", "is", "it", "ms", "nb", "nl",
               "nn", "no", "pt", "sv", "sw"),
    "cp1253": ("el",),
    "cp1254": ("az", "tr"),
    "cp1255": ("he", "yi"),
    "cp1256": ("ar", "fa", "ur"),
    "cp1257": ("et", "lt", "lv"),
    "cp1258": ("vi",),
    "cp874": ("th",),
    "cp932": ("ja",),
    "cp949": ("ko",),
    "gb18030": ("zh",),
}  # fmt: skip
_CODE_PAGE = {language: page for page, languages in _CODE_PAGES.items() for language in languages}
#: Number of lines that are read to detect a table.
_SAMPLE_LINES = 200


def read_transcript(path: Path, language: str) -> str:
    """Return the text of a plain text file.

    Args:
        path: Text file, in UTF-8, UTF-16, UTF-32 or the language's Windows encoding.
        language: Code of the language.

    Raises:
        DataError: The file cannot be read, is empty, or is not plain text: subtitles, a manifest, JSON, a document.
    """
    text = read_text_file(path, language)
    require_text(path, text)
    if is_json(path, text) or _is_table(text):
        kind = "JSON" if is_json(path, text) else "a table, such as a manifest"
        raise DataError(
            f"{path} looks like {kind}. It contains more than the text of one recording. Expected plain text, without "
            "file names or ids. Save only the text."
        )
    if damage := find_damage(text):
        logger.warning(" ! %s: The text is damaged (%s). Convert the original file to UTF-8 again.", path, damage)
    return text


def words_of_transcript(text: str, language: str) -> list[Word]:
    """Return the words of a text, without stage directions such as (laughs) and [applause]. See `split_words`."""
    return split_words(without_directions(text), language)


def read_text_file(path: Path, language: str) -> str:
    """Return the contents of a text file that is encoded in Unicode or in the language's Windows encoding.

    Raises:
        DataError: The file cannot be read, has no text, or is in a different encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None
    page = _CODE_PAGE.get(language.split("-")[0])
    try:
        text = read_text(path, content)
    except DataError:
        decoded = _decode(content, page)
        if decoded is None or find_damage(decoded):
            raise
        text = decoded
        logger.warning(" ! %s is not UTF-8. Reading it as %s, as is usual for '%s'.", path, page, language)
    if not text.strip():
        raise DataError(f"{path} is empty. Expected the text of a recording.")
    return text


def _decode(content: bytes, page: str | None) -> str | None:
    """Return text in a Windows encoding, or None if the bytes are not text in this encoding."""
    if page is None or 0 in content:
        return None
    try:
        return content.decode(page)
    except UnicodeDecodeError:
        return None


def _is_table(text: str) -> bool:
    """Return whether most lines have the same number of pipes or tabs, or a cell with the name of a recording."""
    lines = [line for line in text.splitlines() if line.strip()][:_SAMPLE_LINES]
    for separator in "|\t;,":
        cells = [split_line(line, separator) for line in lines]
        named = sum(any(map(has_suffix, row)) for row in cells)
        usual, count = Counter(map(len, cells)).most_common(1)[0]
        if 2 * named > len(lines) or (separator in "|\t" and usual > 1 and 2 * count > len(lines)):
            return True
    return False
