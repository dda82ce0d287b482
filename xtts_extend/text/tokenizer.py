"""Patches that make coqui's tokenizer and `Xtts` support registered languages. `enable()` applies them."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
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

_ENABLED = "_xtts_extend_enabled"
#: Packages that coqui's cleaners and ours call, and the one that tokenizes.
_PACKAGES = (
    "coqui-tts", "tokenizers", "num2words", "regex", "ko-speech-tools", "pypinyin", "cutlet", "fugashi", "jaconv",
    "mojimoji", "unidic", "unidic-lite",
)  # fmt: skip


class _CharLimits(dict[str, int]):
    """Coqui's character limits, together with those of registered languages."""

    def __missing__(self, code: str) -> int:
        return get_language(code).char_limit

    def get(self, code: str, default: Any = None) -> Any:
        return self[code]


@dataclass(frozen=True)
class PackedLanguage:
    """A language from a language pack. Its vocabulary and cleaner override the registry, but only in the pack's model.

    Attributes:
        code: Code of the language.
        tokenizer: Tokenizer from the `tokenizers` library, with the pack's vocabulary.
        cleaning: The cleaning steps that text goes through before it is tokenized.
        char_limit: Length in characters of the longest utterance that the model speaks well.
    """

    code: str
    tokenizer: Tokenizer
    cleaning: Cleaning
    char_limit: int

    def clean(self, text: str) -> str:
        """Return the cleaned text, ready for tokenization."""
        return clean_numbers(self.cleaning, text, self.code)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the language tag and the text, as coqui's tokenizer does."""
        tagged = language_tag(self.code) + self.clean(text)
        return list(self.tokenizer.encode(tagged.replace(" ", "[SPACE]")).ids)


def packed_language(tokenizer: VoiceBpeTokenizer, language: str) -> PackedLanguage | None:
    """Return the pack that the tokenizer's model has for a language, or None if it has none.

    The tokenizer's `packed` attribute maps language codes to packs.
    """
    packed: Mapping[str, PackedLanguage] = getattr(tokenizer, "packed", {})
    return packed.get(language.split("-")[0])


def bare_tokenizer(tokenizer: VoiceBpeTokenizer, language: str) -> Tokenizer:
    """Return the `tokenizers` library's tokenizer for a language: its pack's if it has one, otherwise the model's."""
    packed = packed_language(tokenizer, language)
    return packed.tokenizer if packed else tokenizer.tokenizer


def tokenization_digest(tokenizer: VoiceBpeTokenizer, language: str) -> str | None:
    """Return a digest of everything that determines the token ids of texts in a language.

    Returns:
        The digest, or None if the language's cleaner is a Python function, because what it depends on is unknown.

    Raises:
        LanguageError: The code is malformed.
    """
    packed = packed_language(tokenizer, language)
    cleaning = packed.cleaning if packed else get_language(language).clean
    # A subclass may do something else.
    if type(cleaning) is not Cleaning:
        return None
    determined_by = [bare_tokenizer(tokenizer, language).to_str(), cleaning.to_dict(), _environment_digest()]
    return hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()


@functools.cache
def _environment_digest() -> str:
    """Return a digest of the code of this folder and of the versions of everything that it calls."""
    digest = hashlib.sha256(platform.python_version().encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    for package in _PACKAGES:
        try:
            digest.update(f"{package} {metadata.version(package)} ".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()


def enable() -> None:
    """Make coqui-tts accept every language whose tag is in the loaded vocabulary. Calling it twice is harmless.

    This patches:

    - `VoiceBpeTokenizer.preprocess_text`: cleans text with the registered cleaners.
    - `VoiceBpeTokenizer.char_limits`: provides a limit for every language.
    - `VoiceBpeTokenizer.encode`: raises LanguageError for a language without a tag; coqui would return unknown tokens.
    - `Xtts.synthesize`: accepts every language with a tag.
    - `Xtts.inference` and `.inference_stream`: lowercase the I in Turkic languages correctly.
    - `split_sentence`: also splits text in languages that are not coqui's own, without using spaCy.

    Coqui's own languages stay unchanged, except for numbers that coqui's cleaners fail on. If a model has a pack for a
    language, the pack determines how text in that language is cleaned and tokenized.
    """
    if getattr(VoiceBpeTokenizer, _ENABLED, False):
        return
    # Imported here because it loads all of the model code.
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
        # If no language is given, let coqui raise its own error, which is clearer.
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
        return _join_short_sentences(split_sentences(text, lang, text_split_length), text_split_length)

    def get_char_limits(self: VoiceBpeTokenizer) -> _CharLimits:
        # A tokenizer that was created before `enable()` was called has a plain dict.
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
        setattr(coqui_xtts.Xtts, name, _with_turkic_i(getattr(coqui_xtts.Xtts, name)))
    coqui_tokenizer.split_sentence = coqui_xtts.split_sentence = new_split_sentence
    setattr(VoiceBpeTokenizer, _ENABLED, True)


def _with_turkic_i(speak: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of `Xtts` so that it lowercases Turkic I and İ first, because `Xtts` would turn I into i."""

    @functools.wraps(speak)
    def new_speak(self: Any, text: str, language: str, *args: Any, **kwargs: Any) -> Any:
        text = text if is_stock(language) else lower_dotted_i(text, language)
        return speak(self, text, language, *args, **kwargs)

    return new_speak


def _join_short_sentences(sentences: list[str], limit: int) -> list[str]:
    """Join adjacent sentences up to the limit, as coqui does, because short sentences sound bad on their own."""
    joined: list[str] = []
    for sentence in sentences:
        if joined and len(joined[-1]) + 1 + len(sentence) <= limit:
            joined[-1] += " " + sentence
        else:
            joined.append(sentence)
    return joined


def load_tokenizer(vocab: Path | str) -> VoiceBpeTokenizer:
    """Return coqui's tokenizer for a vocabulary file, with all registered languages enabled.

    >>> tokenizer = load_tokenizer("am/vocab.json")
    >>> tokenizer.decode(tokenizer.encode("ሰላም", "am"))
    '[am]ሰላም'

    Raises:
        VocabularyError: The file is missing, unreadable or not an XTTS vocabulary.
    """
    vocabulary = load_vocabulary(vocab)
    enable()
    tokenizer = VoiceBpeTokenizer()
    tokenizer.tokenizer = vocabulary.tokenizer
    return tokenizer


def require_tag(tokenizer: VoiceBpeTokenizer, language: str) -> None:
    """Raise LanguageError unless the vocabulary has the language's tag and the tokenizer matches it."""
    tag = language_tag(language)
    vocabulary = bare_tokenizer(tokenizer, language)
    index = vocabulary.token_to_id(tag)
    if index is not None:
        # In training and synthesis, the text directly follows the tag.
        pieces = vocabulary.encode(f"{tag}a")
        if pieces.ids[:1] == [index]:
            return
        raise LanguageError(
            f"The tag {tag} is never matched, because it is an entry in the vocabulary but not an added token. Every "
            f"text in '{language}' would begin with {' '.join(pieces.tokens)} instead. Add the tag to added_tokens, "
            "like the other tags, or create the vocabulary with `xtts-extend extend-vocab`."
        )
    validate_code(language.split("-")[0])
    codes = [*language_codes(vocabulary.get_vocab()), *getattr(tokenizer, "packed", {})]
    raise LanguageError(
        f"The vocabulary has no tag {tag} for language '{language}'; it has tags for: {', '.join(codes) or 'none'}. "
        "Correct the code, or add the language with `xtts-extend extend-vocab`."
    )


def require_cleanable(tokenizer: VoiceBpeTokenizer, language: str) -> None:
    """Raise LanguageError unless the vocabulary has the language's tag and the language's cleaner can run."""
    require_tag(tokenizer, language)
    try:
        tokenizer.encode("a", language)
    except (ImportError, NotImplementedError) as error:
        raise LanguageError(f"Text in '{language}' cannot be cleaned: {error}. Install the missing package.") from error
