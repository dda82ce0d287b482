"""Split text into sentences that the model can speak, without characters that are not in the vocabulary."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import DataError
from xtts_extend.text.characters import is_silent, plain_mark
from xtts_extend.text.cleaners import lower_dotted_i
from xtts_extend.text.sentences import split_sentences
from xtts_extend.text.tokenizer import bare_tokenizer
from xtts_extend.text.vocabulary import first_ten, name_character


@dataclass(frozen=True)
class SpokenText:
    """The sentences of a text that the model can speak, and the text's unknown characters.

    Attributes:
        sentences: The sentences, in order. Unknown dashes, quotes, and variants of letters and digits are replaced with
            plain forms that the vocabulary has; other unknown characters are left out.
        unknown: Visible characters that the vocabulary does not have.
    """

    sentences: list[str]
    unknown: list[str]


def spoken_text(tokenizer: VoiceBpeTokenizer, text: str, language: str, max_tokens: int) -> SpokenText:
    """Split a text into sentences that the model can speak, and skip those that contain nothing to say.

    Tokens are counted after cleaning, with numbers spelled out. Punctuation, spaces and characters that the vocabulary
    does not have are not spoken.

    >>> from xtts_extend.text.tokenizer import load_tokenizer
    >>> spoken_text(load_tokenizer("XTTS/vocab.json"), "It’s here. ... 日", "en", 400)
    SpokenText(sentences=["It's here..."], unknown=['’', '日'])

    Args:
        tokenizer: The model's tokenizer, from `load_tokenizer`.
        text: Text of any length.
        language: Code of a language whose tag is in the vocabulary.
        max_tokens: Maximum number of tokens per sentence, including the language tag.

    Raises:
        DataError: The text contains nothing to say, or is not valid Unicode.
    """
    # In the vocabulary, a letter with accents is a single composed character.
    text = unicodedata.normalize("NFC", text)
    if broken := [character for character in text if "\ud800" <= character <= "\udfff"]:
        raise DataError(f"The text is not UTF-8: it contains the byte 0x{ord(broken[0]) & 0xFF:02x}. Pass UTF-8 text.")
    limit = tokenizer.char_limits[language.split("-")[0]]
    sentences: list[str] = []
    unknown: dict[str, None] = {}
    for sentence in split_sentences(text, language, limit):
        for substitute in (_plain_form, _replacement):
            missing, _ = _read(tokenizer, sentence, language)
            if not missing:
                break
            unknown |= dict.fromkeys(piece for piece in missing if not _is_invisible(piece))
            # The model and its cleaners lowercase the text, so compare in lowercase.
            characters = (substitute(old) if old.lower() in missing else old for old in sentence)
            sentence = " ".join("".join(characters).split())
        for part in _split_by_tokens(tokenizer, sentence, language, max_tokens):
            _, is_spoken = _read(tokenizer, part, language)
            if is_spoken:
                sentences.append(part)
    if not sentences:
        raise DataError(f"There is nothing to say: {_unspeakable_reason(text, list(unknown), language)}")
    return SpokenText(sentences, list(unknown))


def _unspeakable_reason(text: str, unknown: list[str], language: str) -> str:
    if not unknown:
        return f"nothing is left of {text[:80]!r} after cleaning. Pass text with letters or digits."
    names = first_ten([name_character(character) for character in unknown])
    return (
        f"the vocabulary has none of the characters that would be spoken ({names}). Is the text in '{language}'? Pass "
        f"the code of the text's language, or pass text in '{language}'."
    )


def _read(tokenizer: VoiceBpeTokenizer, sentence: str, language: str) -> tuple[list[str], bool]:
    """Return the pieces of a sentence that are not in the vocabulary, and whether the rest contains anything to say."""
    cleaned = tokenizer.preprocess_text(lower_dotted_i(sentence, language), language.split("-")[0])
    vocabulary = bare_tokenizer(tokenizer, language)
    encoding = vocabulary.encode(cleaned)
    unknown_id = vocabulary.token_to_id("[UNK]")
    unknown: dict[str, None] = {}
    is_spoken = False
    for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        piece = cleaned[start:end]
        if index == unknown_id:
            unknown[piece] = None
        else:
            is_spoken = is_spoken or any(map(str.isalnum, piece))
    return list(unknown), is_spoken


def _is_invisible(piece: str) -> bool:
    """Return whether a character is invisible, such as a direction mark, a soft hyphen or a control character."""
    return len(piece) == 1 and is_silent(piece) and unicodedata.category(piece) != "Co"


def _plain_form(character: str) -> str:
    """Return plain letters, digits or marks for a variant such as Ａ, ﬁ, Ⅻ, ², ½ or ％, or else the character itself.

    Symbols that stand for words in a particular language, such as №, do not count as variants.
    """
    category = unicodedata.category(character)
    plain = unicodedata.normalize("NFKC", character).replace("\N{FRACTION SLASH}", "/")
    if category == "So" or not (plain.isascii() or any(map(str.isalnum, plain))):
        return character
    # Without spaces, 2½ would become 21/2 and 10² would become 102.
    return f" {plain} " if category == "No" else plain


def _replacement(character: str) -> str:
    """Return the replacement for an unknown character: ' for ’, nothing for a letter or digit, or else a space."""
    plain = plain_mark(character)
    return plain if plain is not None else "" if character.isalnum() else " "


def _split_by_tokens(tokenizer: VoiceBpeTokenizer, sentence: str, language: str, max_tokens: int) -> list[str]:
    """Repeatedly split a sentence in two, the longer part first, until no part has more than `max_tokens` tokens."""
    if len(sentence) < 2 or len(tokenizer.encode(lower_dotted_i(sentence, language), language)) <= max_tokens:
        return [sentence]
    parts = split_sentences(sentence, language, min(len(sentence) - 1, len(sentence) * 3 // 5 + 1))
    return [piece for part in parts for piece in _split_by_tokens(tokenizer, part, language, max_tokens)]
