"""Teaches coqui's tokenizer, and `Xtts.synthesize`, the registered languages. Only `enable()` patches anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import TTS.tts.layers.xtts.tokenizer as coqui_tokenizer
from tokenizers import Tokenizer
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError
from xtts_extend.text.cleaners import lower_dotted_i
from xtts_extend.text.cleaning import Cleaning
from xtts_extend.text.languages import (
    clean_numbers,
    clean_text,
    get_language,
    is_stock,
    language_tag,
    split_sentences,
    validate_code,
)
from xtts_extend.text.vocabulary import language_codes, load_vocabulary

_MARK = "_xtts_extend_enabled"


class _CharLimits(dict[str, int]):
    """coqui's character limits, which know the languages of our registry too."""

    def __missing__(self, code: str) -> int:
        return get_language(code).char_limit

    def get(self, code: str, default: Any = None) -> Any:
        return self[code]


@dataclass(frozen=True)
class PackedLanguage:
    """A language whose vocabulary and cleaning belong to one model: they beat the registry there, and nowhere else.

    Attributes:
        code: of the language.
        tokenizer: of the vocabulary.
        cleaning: from text as it is written to text that is tokenized.
        char_limit: characters up to which an utterance is good.
    """

    code: str
    tokenizer: Tokenizer
    cleaning: Cleaning
    char_limit: int

    def clean(self, text: str) -> str:
        """The text that becomes tokens."""
        return clean_numbers(self.cleaning, text, self.code)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, its tag before it, as coqui's tokenizer gives them."""
        tagged = language_tag(self.code) + self.clean(text)
        return list(self.tokenizer.encode(tagged.replace(" ", "[SPACE]")).ids)


def packed_language(tokenizer: VoiceBpeTokenizer, language: str) -> PackedLanguage | None:
    """What a pack says of a language, where the tokenizer's model has a pack for it.

    These are a tokenizer's attribute `packed`, by their codes.
    """
    packed: Mapping[str, PackedLanguage] = getattr(tokenizer, "packed", {})
    return packed.get(language.split("-")[0])


def bare_tokenizer(tokenizer: VoiceBpeTokenizer, language: str) -> Tokenizer:
    """The bare tokenizer for texts in a language: its pack's, or the model's own."""
    packed = packed_language(tokenizer, language)
    return packed.tokenizer if packed else tokenizer.tokenizer


def enable() -> None:
    """Let coqui-tts accept every language whose tag the loaded vocabulary holds; calling it twice is harmless.

    Patched are `VoiceBpeTokenizer.preprocess_text` (cleaning through the registry), `.char_limits`, `.encode` (a code
    without a tag is a LanguageError, where coqui spells out the tag as unknown tokens), `Xtts.synthesize`,
    `Xtts.inference` and `.inference_stream` (the upper-case I of Turkic languages), and `split_sentence` (text
    splitting of other languages than coqui's own, without spaCy). What coqui does with its own languages stays as it
    is, but for numbers that its cleaners fail on. Where a model has a pack for a language, its text is cleaned and
    tokenized as the pack says.
    """
    if getattr(VoiceBpeTokenizer, _MARK, False):
        return
    # Here and not above: it loads the whole model code.
    import TTS.tts.models.xtts as coqui_xtts

    preprocess_text, encode = VoiceBpeTokenizer.preprocess_text, VoiceBpeTokenizer.encode
    synthesize, split_sentence = coqui_xtts.Xtts.synthesize, coqui_tokenizer.split_sentence

    @functools.wraps(preprocess_text)
    def new_preprocess_text(self: VoiceBpeTokenizer, txt: str, lang: str) -> str:
        if packed := packed_language(self, lang):
            return packed.clean(txt)
        if not is_stock(lang):
            return clean_text(txt, lang)
        return clean_numbers(lambda text: preprocess_text(self, text, lang), txt, lang)

    @functools.wraps(encode)
    def new_encode(self: VoiceBpeTokenizer, txt: str, lang: str) -> list[int]:
        require_tag(self, lang)
        if packed := packed_language(self, lang):
            self.check_input_length(txt, lang)
            return packed.encode(txt)
        return encode(self, txt, lang)

    @functools.wraps(synthesize)
    def new_synthesize(self: Any, text: str, config: Any = None, *, language: str | None = None, **kwargs: Any) -> Any:
        # Without a language coqui's own message is the better one.
        if language is not None:
            require_tag(self.tokenizer, language)
            if language not in self.config.languages:
                self.config.languages = [*self.config.languages, language]
        return synthesize(self, text, config, language=language, **kwargs)

    @functools.wraps(split_sentence)
    def new_split_sentence(text: str, lang: str, text_split_length: int | None = 250) -> list[str]:
        if is_stock(lang):
            return split_sentence(text, lang, text_split_length)
        if text_split_length is None or len(text) < text_split_length:
            return [text.strip()]
        return _pack(split_sentences(text, lang, text_split_length), text_split_length)

    def get_char_limits(self: VoiceBpeTokenizer) -> _CharLimits:
        # A tokenizer made before `enable()` holds a plain dict.
        limits: dict[str, int] = vars(self)["char_limits"]
        packed: Mapping[str, PackedLanguage] = getattr(self, "packed", {})
        return _CharLimits(limits | {code: language.char_limit for code, language in packed.items()})

    def set_char_limits(self: VoiceBpeTokenizer, limits: dict[str, int]) -> None:
        vars(self)["char_limits"] = limits

    VoiceBpeTokenizer.preprocess_text = new_preprocess_text
    VoiceBpeTokenizer.encode = new_encode
    VoiceBpeTokenizer.char_limits = property(get_char_limits, set_char_limits)
    coqui_xtts.Xtts.synthesize = new_synthesize
    for name in ("inference", "inference_stream"):
        setattr(coqui_xtts.Xtts, name, _with_dotless_i(getattr(coqui_xtts.Xtts, name)))
    coqui_tokenizer.split_sentence = coqui_xtts.split_sentence = new_split_sentence
    setattr(VoiceBpeTokenizer, _MARK, True)


def _with_dotless_i(speak: Callable[..., Any]) -> Callable[..., Any]:
    """A method of `Xtts` that lower-cases its text, which makes an i of the I of Turkic languages."""

    @functools.wraps(speak)
    def new_speak(self: Any, text: str, language: str, *args: Any, **kwargs: Any) -> Any:
        text = text if is_stock(language) else lower_dotted_i(text, language)
        return speak(self, text, language, *args, **kwargs)

    return new_speak


def _pack(sentences: list[str], limit: int) -> list[str]:
    """Join neighbouring sentences up to the limit, as coqui's text splitting does: short ones alone sound poor."""
    packed: list[str] = []
    for sentence in sentences:
        if packed and len(packed[-1]) + 1 + len(sentence) <= limit:
            packed[-1] += " " + sentence
        else:
            packed.append(sentence)
    return packed


def load_tokenizer(vocab: Path | str) -> VoiceBpeTokenizer:
    """coqui's tokenizer of a vocabulary file, with every registered language enabled.

    Raises VocabularyError when the file is missing, unreadable, or no XTTS vocabulary.
    """
    vocabulary = load_vocabulary(vocab)
    enable()
    tokenizer = VoiceBpeTokenizer()
    tokenizer.tokenizer = vocabulary.tokenizer
    return tokenizer


def require_tag(tokenizer: VoiceBpeTokenizer, language: str) -> None:
    """Raise LanguageError unless the vocabulary holds the language's tag, as a token that text can become."""
    tag = language_tag(language)
    vocabulary = bare_tokenizer(tokenizer, language)
    index = vocabulary.token_to_id(tag)
    if index is not None:
        # as it stands before a text
        pieces = vocabulary.encode(f"{tag}a")
        if pieces.ids[:1] == [index]:
            return
        raise LanguageError(
            f"The tag is never matched: {tag} is an entry of the vocabulary and none of its added tokens, so every "
            f"text in '{language}' would begin with {' '.join(pieces.tokens)} instead of it. Add it to added_tokens, "
            "as the other tags are, or make the vocabulary with `xtts-extend extend-vocab`."
        )
    validate_code(language.split("-")[0])
    known = [*language_codes(vocabulary.get_vocab()), *getattr(tokenizer, "packed", {})]
    raise LanguageError(
        f"The vocabulary has no tag {tag} for language '{language}'; it has tags for: {', '.join(known) or 'none'}. "
        "Correct the code, or add the language with `xtts-extend extend-vocab`."
    )


def require_cleanable(tokenizer: VoiceBpeTokenizer, language: str) -> None:
    """Raise LanguageError unless the vocabulary holds the language's tag and its cleaner works here."""
    require_tag(tokenizer, language)
    try:
        tokenizer.encode("a", language)
    except (ImportError, NotImplementedError) as error:
        raise LanguageError(f"Texts in '{language}' cannot be cleaned: {error}. Install what is missing.") from error
