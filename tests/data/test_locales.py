"""Languages as tables spell them, and values that stand for an unknown language."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtts_extend.data.language_names import code_of_name
from xtts_extend.data.locales import read_language
from xtts_extend.data.manifest import read_manifest
from xtts_extend.errors import LanguageError
from xtts_extend.text.languages import STOCK_LANGUAGES

FLEURS = """Afrikaans Amharic Arabic Armenian Assamese Asturian Azerbaijani Belarusian Bengali Bosnian Bulgarian Burmese
Catalan Cebuano Croatian Czech Danish Dutch English Estonian Filipino Finnish French Fula Galician Ganda Georgian German
Greek Gujarati Hausa Hebrew Hindi Hungarian Icelandic Igbo Indonesian Irish Italian Japanese Javanese Kabuverdianu Kamba
Kannada Kazakh Khmer Korean Kyrgyz Lao Latvian Lingala Lithuanian Luo Luxembourgish Macedonian Malay Malayalam Maltese
Maori Marathi Mongolian Nepali Northern-Sotho Norwegian Nyanja Occitan Oriya Oromo Pashto Persian Polish Portuguese
Punjabi Romanian Russian Serbian Shona Sindhi Slovak Slovenian Somali Sorani-Kurdish Spanish Swahili Swedish Tajik Tamil
Telugu Thai Turkish Ukrainian Umbundu Urdu Uzbek Vietnamese Welsh Wolof Xhosa Yoruba Zulu"""


@pytest.mark.parametrize(
    ("spelled", "code"),
    [
        ("Amharic", "am"), ("አማርኛ", "am"), ("amharic (Ethiopia)", "am"), ("SWAHILI", "sw"), ("Northern-Sotho", "nso"),
        ("Spanish; Castilian", "es"), ("Portuguese (Brazil)", "pt"), ("Français", "fr"), ("Franc\u0327ais", "fr"),
        ("हिन्दी", "hi"), ("Mandarin Chinese", "zh-cn"), ("Cantonese Chinese", "yue"), ("Tiếng Việt", "vi"),
        ("amh", "amh"), ("nb", "nb"), ("nob", "nob"), ("other_code", None), ("Klingon", None), ("Elvish (high)", None),
    ],
)  # fmt: skip
def test_codes_and_names(spelled: str, code: str | None) -> None:
    if code is not None:
        assert read_language(spelled) == code
        return
    with pytest.raises(LanguageError):
        read_language(spelled)


def test_the_expected_language_keeps_its_code() -> None:
    assert [read_language(name, "amh") for name in ("Amharic", "am", "am_ET", "amh", "sw")] == [*["amh"] * 4, "sw"]
    assert [read_language(name, "nb") for name in ("Norwegian", "no", "nno", "sv-SE")] == ["nb", "nb", "nb", "sv"]
    assert read_language("Mandarin", "zh-cn") == "zh-cn"


def test_every_name_of_fleurs_and_every_stock_language_is_known() -> None:
    assert [name for name in FLEURS.split() if code_of_name(name) is None] == []
    codes = {code_of_name(name) for name in FLEURS.split()} | {code_of_name("Chinese"), "zh"}
    assert codes >= STOCK_LANGUAGES


@pytest.fixture
def languages(tmp_path: Path):
    def read(header: str, *rows: str, language: str = "") -> list[str]:
        (tmp_path / "m.csv").write_text("\n".join([f"file|text|{header}", *(f"a.wav|One|{row}" for row in rows)]))
        return [sample.language for sample in read_manifest(f"{tmp_path / 'm.csv'}{language}", None)]

    return read


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "unknown", "other", "und", "N/A", "-"])
def test_an_unknown_language_means_that_of_the_manifest(languages, cell: str) -> None:
    assert languages("lang", "sw", cell, language=":am") == ["sw", "am"]
    with pytest.raises(LanguageError, match=rf"line 3: The language is '{cell}' \(number of rows: 2\).*PATH:LANG"):
        languages("lang", "sw", cell, cell)


def test_the_column_with_known_languages_is_read(languages) -> None:
    assert languages("language|locale", "Gheg (north)|aln", "Gheg|aln") == ["aln", "aln"]
    assert languages("language|lang_id", "Amharic|5") == ["am"]
    assert languages("locale|lang_id", "am_et|5") == ["am"]
    with pytest.raises(LanguageError, match=r"line 2: 'Gheg' is neither a language code nor a known language name"):
        languages("language", "Gheg")
