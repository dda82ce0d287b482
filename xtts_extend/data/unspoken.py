"""Detect text that is not spoken as written: markup, stage directions, encoding damage and phonetic symbols."""

from __future__ import annotations

import re

# Prose also uses parentheses, so inside them, only these stage directions count as markup.
_DIRECTIONS = (
    r"laugh(?:s|ed|ing|ter)?|chuckl(?:es|ing)|giggl(?:es|ing)|cough(?:s|ing)?|sigh(?:s|ing)?|breath(?:es|ing)?|inhales|"
    r"exhales|gasps?|sniffs?|sneezes?|groans?|sobs?|cr(?:ies|ying)|whisper(?:s|ing)?|shouts?|yawns?|hums?|humming|"
    r"clears (?:his |her )?throat|applause|clapping|music|noise|background noise|silence|pause|crosstalk|cross talk|"
    r"inaudible|unintelligible|indistinct|foreign|beep|static|"
    r"lacht|lachen|lachend|gelächter|hustet|seufzt|räuspert sich|flüstert|applaus|beifall|klatschen|musik|stille|"
    r"rauschen|unverständlich|"
    r"rires?|il rit|elle rit|tousse|soupire|chuchote|applaudissements|musique|silence|inaudible|"
    r"risas?|se ríe|ríe|tose|suspira|susurra|aplausos|música|silencio|inaudible|ininteligible|"
    r"ride|ridono|risate|risata|tossisce|sospira|applausi|musica|incomprensibile|"
    r"ri|risos|risada|tosse|suspira|inaudível|gelach|lachje|hoest|zucht|muziek|applaus|onverstaanbaar|"
    r"śmiech|śmieje się|kaszle|wzdycha|oklaski|muzyka|niezrozumiałe|smích|směje se|kašle|potlesk|hudba|"
    r"nevet|nevetés|köhög|taps|zene|güler|gülüyor|gülüşmeler|alkış|müzik|öksürür|"
    r"смех|смеется|смеётся|кашляет|кашель|вздыхает|вздох|шепчет|аплодисменты|музыка|тишина|пауза|неразборчиво|"
    r"ضحك|يضحك|تصفيق|موسيقى|हंसी|हँसी|हँसते हुए|तालियाँ|संगीत|ሳቅ|ጭብጨባ|"
    r"笑|笑い|笑声|笑聲|拍手|掌声|掌聲|咳|音楽|音乐|沉默|웃음|박수|기침|음악|한숨"
)
_MARKUP = re.compile(
    r"</?[a-z][^<>]*>|<!--|<\|[^<>]*\|>|-->"  # tags of HTML, SSML, subtitles, models, and <unk>
    r"|&(?:[a-z]\w+|#\d+|#x[\da-f]+);"  # entities
    r"|&(?:nbsp|amp|lt|gt|quot|apos|copy|reg|[nm]dash|hellip|[lr][sd]?quo|#\d{2,})(?![a-z\d])"  # without a semicolon
    r"|\b(?:https?|ftp)://\S+|\bwww\.\S+|\bmailto:\S+|\b[\w-]+\.(?:com|org|net|info|edu|gov|io)\b"  # addresses
    r"|(?-i:\b[a-z][a-z\d-]*\.(?:(?:co|ac|org|com|net|gov|edu|or|ne|go)\.[a-z]{2}|uk|de|eu|ru|jp|cn|kr|pl|cz|hu|nl|br|app|tv)\b)"
    r"|\b[a-z\d-]{2,}(?:\.[a-z\d-]+)*\.[a-z]{2,6}/\w"  # bit.ly/x
    r"|(?-i:\bt\.me/\w|\bx\.com\b)"
    r"|\S+@\S+\.\w\w+"  # email addresses
    r"|(?<![\w@])@\w+|(?<![\w#&])#[^\W\d]\w+"  # @mentions and #hashtags
    r"|\[[^\]]*\]|\{[^}]*\}|［[^］]*］|【[^】]*】"  # [laughter], [00:12], {\an8}
    rf"|[(（]\s*(?:{_DIRECTIONS})\s*[)）]"
    r"|(?<![\w*])\*[^\W\d_](?:[^*\n]{0,40}\w)?[.!?]?\*(?![\w*])"  # *coughs*
    r"|(?<!\w)_[^\W\d_](?:[^_\n]*\w)?[.,!?]?_(?!\w)"  # _stressed_
    r"|\*\*|__|~~|==|'''|@@|@-@|▁"  # wiki markup and subword separators
    r"|\\\S"  # unprocessed escapes
    r"|[♩♪♫♬]",
    re.IGNORECASE,
)

_DIRECTION = re.compile(rf"[(（\[［【]\s*(?:{_DIRECTIONS})\s*[)）\]］】]", re.IGNORECASE)

# All markup contains one of these characters, and searching for them is much faster than matching.
_MARKUP_HINT = re.compile(r"[<>&@#/\\\[\]{}［【(（*_~=▁♩♪♫♬]|'''|\.\w|mailto:", re.IGNORECASE)

# UTF-8 continuation bytes (80 to BF) decoded as Windows-1252 or Latin-1.
_TAIL = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
# The same bytes decoded as Windows-1251.
_CYRILLIC_TAIL = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџ\u00a0ЎўЈ¤Ґ¦§Ё©Є«¬\u00ad®Ї°±Ііґµ¶·ё№є»јЅѕї"
_DAMAGE = {
    "characters lost through a wrong encoding": re.compile(r"\ufffd|[a-z]\?[a-z]|\?{2,} \?{2,}"),
    "UTF-8 decoded as a different encoding": re.compile(
        rf"(?<![A-ZÀ-ÖØ-Ý])(?:Ã[{_TAIL}]|Â[\u00a0-\u00bf])|â€|ðŸ|ï»¿|ï¿½|(?:[Â-ß][{_TAIL}]){{2,}}"
        rf"|(?:[à-ï][{_TAIL}]{{2}}){{2,}}|(?:[РС][{_CYRILLIC_TAIL}]){{3,}}|√[©®†°±§∂ß]|‚Ä[ôúùîì]"
    ),
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "private-use characters, whose meaning depends on the font": re.compile(
        "[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
    ),
}
_SURROGATE = re.compile("[\ud800-\udfff]")

# Stress, length and tie marks, which no orthography uses.
_PHONETIC_MARKS = re.compile("[ˈˌːˑ\u0361]")
# Phonetic symbols. Those in the second set are also letters in orthographies, mostly African and First Nations ones.
_ONLY_PHONETIC = frozenset("ɐɒɕɘɚɜɝɞɟɡɤɥɫɭɯɰɱɳɴɵɶɸɹɻɽɾʀʁʂʈʍʎʏʐʑʝ")
_PHONETIC = _ONLY_PHONETIC | frozenset("ɑɓɔɖɗəɛɣɦɨɪɬɲŋʃʉʊʋʌʒʔʕ")


def find_markup(text: str) -> str | None:
    """Return the first markup, address or stage direction in a text, or None."""
    match = _MARKUP.search(text) if _MARKUP_HINT.search(text) else None
    return match and match[0]


def without_markup(text: str) -> str:
    """Return a text with all markup, addresses and stage directions replaced with spaces."""
    return _MARKUP.sub(" ", text)


def without_directions(text: str) -> str:
    """Return a text with stage directions such as (laughs) and [applause] replaced with spaces.

    Other words in brackets are kept, because in prose, they are spoken.
    """
    return _DIRECTION.sub(" ", text)


def find_damage(text: str) -> str | None:
    """Return a description of the first encoding damage in a text, with the surrounding text, or None."""
    for name, pattern in _DAMAGE.items():
        if match := pattern.search(text):
            start = max(match.start() - 10, 0)
            return f"{name}: {text[start : match.end() + 10]!r}"
    return None


def has_surrogate(text: str) -> bool:
    """Return whether a text has an unpaired surrogate, for example from a truncated JSON escape."""
    return _SURROGATE.search(text) is not None


def is_phonemic(text: str) -> bool:
    """Return whether a text is written in phonetic symbols (IPA) instead of an orthography."""
    marked = _PHONETIC_MARKS.search(text) is not None and not _PHONETIC.isdisjoint(text)
    return marked or len(_ONLY_PHONETIC.intersection(text)) > 1


def phonetic_signs(text: str) -> set[str]:
    """Return the phonetic symbols and marks in a text, including letters that orthographies also use."""
    return {*_PHONETIC_MARKS.findall(text), *_PHONETIC.intersection(text)}
