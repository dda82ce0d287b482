from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend.errors import LanguageError
from xtts_extend.text import languages
from xtts_extend.text.cleaners import is_silent
from xtts_extend.text.languages import (
    STOCK_LANGUAGES,
    Language,
    amharic_cleaner,
    clean_text,
    get_language,
    is_stock,
    language_tag,
    register_language,
    validate_code,
)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_registry", dict(languages._registry))


# --- Amharic


def test_ethiopic_punctuation_becomes_marks_that_the_base_has() -> None:
    assert clean_text("ሰላም፡ለዓለም።", "am") == "ሰላም ለዓለም."
    assert clean_text("አ፣ ለ፤ ሐ፥ መ፦ ሠ፧ ረ፨", "am") == "አ, ለ; ሐ: መ: ሠ? ረ."
    assert clean_text("የመኖር፣፡በነጻነትና፡", "am") == "የመኖር, በነጻነትና"


def test_full_stops_and_colons_typed_with_other_characters() -> None:
    assert clean_text("ነው፡፡ አለ:: እንዲህ፡- ሰላም", "am") == "ነው. አለ. እንዲህ: ሰላም"
    assert clean_text("a::b", "am") == "a::b"


def test_amharic_numbers_and_abbreviations() -> None:
    assert clean_text("በ፲፱፻፺ ዓ.ም.", "am") == "በአንድ ሺህ ዘጠኝ መቶ ዘጠና ዓመተ ምሕረት."
    assert clean_text("፭ኛ እና 21ኛ 25%", "am") == "አምስተኛ እና ሃያ አንደኛ ሃያ አምስት በመቶ"
    assert clean_text("$20 እና 5€", "am") == "ሃያ ዶላር እና አምስት ዩሮ"
    assert clean_text("ዶ/ር አበበ ት/ቤት", "am") == "ዶክተር አበበ ትምህርት ቤት"


def test_homophones_are_only_folded_on_request() -> None:
    text = "ሐሑሒሓሔሕሖ ኀኁኂኃኄኅኆ ሠሡሢሣሤሥሦሧ ዐዑዒዓዔዕዖ ፀፁፂፃፄፅፆ"
    assert clean_text(text, "am") == text
    folded = amharic_cleaner(fold_homophones=True)
    assert folded(text) == "ሀሁሂሃሄህሆ ሀሁሂሃሄህሆ ሰሱሲሳሴስሶሷ አኡኢኣኤእኦ ጸጹጺጻጼጽጾ"
    assert folded("30") == "ሰላሳ", "words that the cleaner writes are folded too"


def test_the_amharic_declaration_needs_no_new_punctuation(shared_data: Path) -> None:
    text = clean_text((shared_data / "udhr" / "am.txt").read_text(encoding="utf-8"), "am")
    foreign = {character for character in text if not "\u1200" <= character <= "\u135f"}
    assert foreign == set(" .,;")


# --- any language


@pytest.mark.parametrize(
    ("code", "text", "cleaned"),
    [
        ("ka", "„გამარჯობა“ — ᲛᲡᲝᲤᲚᲘᲝ…", "გამარჯობა - მსოფლიო..."),
        ("vi", "Tiếng VIỆT: 21", "tiếng việt: hai mươi mốt"),
        ("el", "Καλημέρα ΚΟΣΜΟΣ\u037e «ναι»", "καλημέρα κοσμος; ναι"),
        ("ti", "ሰላም፡ ብ፲፪ ዓ.ም።", "ሰላም ብ12 ዓ.ም."),
        ("yo", "Ẹ n lẹ́ “káàbọ̀”", "ẹ n lẹ́ káàbọ̀"),
        ("fa", "می\u200cخواهم\u200f ۱۲", "می\u200cخواهم دوازده"),
        ("bn", "আমি।", "আমি."),
        ("sw", "Habari\u00ad yako\ue000\x07 [ndiyo] ‘ndiyo’", "habari yako (ndiyo) 'ndiyo'"),
        ("az", "İSTANBUL", "istanbul"),
        ("az", "QIZIL IŞIQ", "qızıl ışıq"),
        ("crh", "QIZIL I\u0307Ş", "qızıl iş"),
        ("tt", "QIZIL IŞIQ", "qızıl ışıq"),
        ("tt", "КЫЗЫЛ II", "кызыл ii"),
        ("kk", "QYZYL IŞIQ", "qyzyl ışıq"),
        ("uz", "QIZIL", "qizil"),
        ("tr", "QIZIL İŞ", "qizil iş"),
        ("lt", "ĮVAIRŪS", "įvairūs"),
        ("el", "ΟΔΟΣ.", "οδος."),
        ("haw", "ʻŌlelo", "ʻōlelo"),
        ("yo", " \t\r\n\u2028 ", ""),
        ("yo", "", ""),
        ("el", "\u1fef", "'"),
        ("yo", "e\u00ad\u0301", "é"),
    ],
)
def test_default_cleaning(code: str, text: str, cleaned: str) -> None:
    assert clean_text(text, code) == cleaned


@pytest.mark.parametrize("code", ["am", "ti", "vi", "yo", "uk", "el", "sw"])
def test_all_spellings_of_a_text_are_cleaned_to_the_same(code: str) -> None:
    """NFD, cleaned text, and text that `Xtts.inference` has lowercased give the same tokens."""
    text = "Ẹ́kọ̀ Việt İş ΆΈ ᲛᲡ «Ő» ፲፱፻፺ ዓ.ም። 1,234.5 -7 a\u0323\u0301 ‘x’ … 21ኛ"
    cleaned = clean_text(text, code)
    for variant in (unicodedata.normalize("NFD", text), text.lower(), cleaned, text.strip().lower()):
        assert clean_text(variant, code) == cleaned
    assert cleaned == unicodedata.normalize("NFC", cleaned)


def test_is_silent() -> None:
    assert [character for character in 'a\u200c\u200b\u00ad\x00\ue000\n ፡"' if is_silent(character)] == list(
        "\u200b\u00ad\x00\ue000"
    )


# --- numbers that a cleaner fails on


@pytest.mark.parametrize(
    ("code", "text", "cleaned"),
    [
        ("es", "El 12 y " + "1" * 111 + ".", "el doce y " + " ".join(["uno"] * 111) + "."),
        ("en", "9" * 400, " ".join(["nine"] * 400)),
        ("en", "$" + "9" * 20_000, "dollar " + " ".join(["nine"] * 20_000)),
        ("cs", "Roku 1990. Ne 5 ale 5.", "roku tisíc devětset devadesát. ne pět ale pět."),
        ("hi", "1990 और 5", "एक नौ नौ शून्य और पाँच"),
        ("hu", "1" * 30 + "." + "2" * 30, " ".join(["egy"] * 30) + "." + " ".join(["kettő"] * 30)),
    ],
)
def test_numbers_that_a_cleaner_fails_on(code: str, text: str, cleaned: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert clean_text(text, code) == cleaned
    assert caplog.text.count(f"The cleaner for '{code}' fails on some numbers") == 1, "warned once"


def test_a_custom_cleaner_that_fails_on_numbers() -> None:
    def clean(text: str) -> str:
        if "7" in text:
            raise KeyError(text)
        return text.lower()

    register_language(Language("vi", clean))
    assert clean_text("Số 7 và 8", "vi") == "số bảy và 8"
    register_language(Language("vi", lambda text: {}[text]))
    with pytest.raises(KeyError):
        clean_text("Số 7", "vi")
    with pytest.raises(KeyError):
        clean_text("Số", "vi")


# --- registry


def test_stock_languages_are_cleaned_by_coqui_byte_for_byte(shared_data: Path) -> None:
    original = getattr(VoiceBpeTokenizer.preprocess_text, "__wrapped__", VoiceBpeTokenizer.preprocess_text)
    tokenizer = VoiceBpeTokenizer()
    compared = 0
    for path in sorted((shared_data / "udhr").glob("*.txt")):
        if is_stock(path.stem):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert clean_text(line, path.stem) == original(tokenizer, line, path.stem)
                compared += 1
    assert compared == 1018


def test_stock_languages_are_those_of_coqui() -> None:
    assert " ".join(sorted(STOCK_LANGUAGES)) == "ar cs de en es fr hi hu it ja ko nl pl pt ru tr zh"
    assert get_language("zh-cn").code == "zh"
    assert get_language("fr").char_limit == 273
    assert not is_stock("am")


def test_a_missing_package_of_coquis_cleaning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypinyin", None)
    with pytest.raises(LanguageError, match="pypinyin"):
        clean_text("你好", "zh")


def test_registering_again_replaces_a_language() -> None:
    assert get_language("yo").char_limit == 250
    language = Language("yo", str.upper, char_limit=99)
    for _ in range(2):
        register_language(language)
        assert get_language("yo") is language
        assert clean_text("ẹ", "yo") == "Ẹ"


def test_languages_that_cannot_be_registered() -> None:
    with pytest.raises(LanguageError, match="'en' is one of coqui's own"):
        register_language(Language("en", str.lower))
    with pytest.raises(LanguageError, match="is one of coqui's own"):
        register_language(Language("zh-cn", str.lower))
    with pytest.raises(LanguageError, match="char_limit of language 'yo' is 0"):
        register_language(Language("yo", str.lower, char_limit=0))
    with pytest.raises(LanguageError, match="'yo' is 'lower'; expected a function"):
        register_language(Language("yo", "lower"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "code", ["", "a", "AM", "am-et", "am_ET", "toolongcode", "ሰላም", "a m", "am\n", "[am]", None, 5]
)
def test_malformed_codes(code: object) -> None:
    with pytest.raises(LanguageError, match="malformed"):
        validate_code(code)  # type: ignore[arg-type]


def test_codes_and_tags() -> None:
    assert [validate_code(code) for code in ("am", "yo", "tig", "zh-cn")] == ["am", "yo", "tig", "zh-cn"]
    assert [language_tag(code) for code in ("am", "zh", "zh-cn", "pt-br")] == ["[am]", "[zh-cn]", "[zh-cn]", "[pt]"]
