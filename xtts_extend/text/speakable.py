"""What of a text can be spoken: sentences that the model takes, without what the vocabulary lacks."""

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
    """Sentences in order, and the characters of the text that the vocabulary lacks.

    In the sentences these are left out, or written as what it has: other dashes and quotes, letters and digits that are
    another form of plain ones. Characters that nobody sees are not among them.
    """

    sentences: list[str]
    unknown: list[str]


def spoken_text(tokenizer: VoiceBpeTokenizer, text: str, language: str, most_tokens: int) -> SpokenText:
    """Split a text into sentences of up to `most_tokens` tokens, and pass over those of which nothing is spoken.

    A sentence is measured as the model gets it: cleaned, with its numbers in words. Nothing is spoken of marks, spaces
    and characters that the vocabulary lacks.

    Args:
        tokenizer: of the model, enabled for the language.
        text: of any length.
        language: a code whose tag the vocabulary holds.
        most_tokens: that the model takes, the language tag included.

    Raises:
        DataError: nothing of the text is spoken, or it is no Unicode.
    """
    # accents that stand by themselves are one character with their letter for the vocabulary
    text = unicodedata.normalize("NFC", text)
    if broken := [character for character in text if "\ud800" <= character <= "\udfff"]:
        raise DataError(f"The text is not UTF-8: it holds the byte 0x{ord(broken[0]) & 0xFF:02x}. Give it as UTF-8.")
    limit = tokenizer.char_limits[language.split("-")[0]]
    sentences: list[str] = []
    unknown: dict[str, None] = {}
    for sentence in split_sentences(text, language, limit):
        for stand_in in (_compatible, _replacement):
            lacking, _ = _read(tokenizer, sentence, language)
            if not lacking:
                break
            unknown |= dict.fromkeys(piece for piece in lacking if not _is_invisible(piece))
            # cleaners, and the model before them, lower the case
            kept = (stand_in(one) if one.lower() in lacking else one for one in sentence)
            sentence = " ".join("".join(kept).split())
        for part in _fit(tokenizer, sentence, language, most_tokens):
            _, is_spoken = _read(tokenizer, part, language)
            if is_spoken:
                sentences.append(part)
    if not sentences:
        raise DataError(f"There is nothing to say: {_unspeakable_reason(text, list(unknown), language)}")
    return SpokenText(sentences, list(unknown))


def _unspeakable_reason(text: str, unknown: list[str], language: str) -> str:
    if not unknown:
        return f"no word is left of {text[:80]!r} after cleaning. Give text with letters or digits."
    names = first_ten([name_character(character) for character in unknown])
    return (
        f"the vocabulary lacks every character that could be spoken, of {names}. Is the text in '{language}'? Give the "
        "language's code, or text in its letters."
    )


def _read(tokenizer: VoiceBpeTokenizer, sentence: str, language: str) -> tuple[list[str], bool]:
    """The pieces of a sentence that the vocabulary lacks, and whether anything of it is spoken."""
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
    """Whether nothing of a text is lost without this character: a mark of direction, a soft hyphen, a control code."""
    return len(piece) == 1 and is_silent(piece) and unicodedata.category(piece) != "Co"


def _compatible(character: str) -> str:
    """The plain letters, digits or marks of which a character is a form: Ａ, ﬁ, Ⅻ, ², ½, ％; else the character itself.

    Symbols that stand for words of one language, as № does, are no such forms.
    """
    category = unicodedata.category(character)
    plain = unicodedata.normalize("NFKC", character).replace("\N{FRACTION SLASH}", "/")
    if category == "So" or not (plain.isascii() or any(map(str.isalnum, plain))):
        return character
    # 2½ is not 21/2, nor 10² 102
    return f" {plain} " if category == "No" else plain


def _replacement(character: str) -> str:
    """What stands in the place of an unknown character: ' for ’; else a space for what may part two words."""
    plain = plain_mark(character)
    return plain if plain is not None else "" if character.isalnum() else " "


def _fit(tokenizer: VoiceBpeTokenizer, sentence: str, language: str, most_tokens: int) -> list[str]:
    """Part a sentence in two, of which the first is the longer one, until each has up to `most_tokens` tokens."""
    if len(sentence) < 2 or len(tokenizer.encode(lower_dotted_i(sentence, language), language)) <= most_tokens:
        return [sentence]
    parts = split_sentences(sentence, language, min(len(sentence) - 1, len(sentence) * 3 // 5 + 1))
    return [fitting for part in parts for fitting in _fit(tokenizer, part, language, most_tokens)]
