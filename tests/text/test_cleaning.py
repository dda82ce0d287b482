from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from xtts_extend.errors import LanguageError
from xtts_extend.text import languages
from xtts_extend.text.cleaning import Cleaning, Json, Step
from xtts_extend.text.languages import (
    STOCK_LANGUAGES,
    Language,
    amharic_cleaner,
    clean_text,
    cleaning_of,
    default_cleaner,
    register_language,
)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_registry", dict(languages._registry))


# --- cleanings in packs: if one of these tests fails, a step has changed and needs a new version number


def plain(*names: str) -> list[dict[str, Json]]:
    return [{"name": name, "version": 1} for name in names]


BULGARIAN = plain("composition", "ethiopic", "characters", "casing", "composition", "white_space")
AMHARIC = [
    *plain("composition", "ethiopic", "characters", "casing"),
    {
        "name": "replacements",
        "version": 1,
        "texts": {
            "ዓ/ም": "ዓመተ ምሕረት",
            "ዓ.ም": "ዓመተ ምሕረት",
            "እ.ኤ.አ": "እንደ ኤሮፓውያን አቆጣጠር",
            "ዶ/ር": "ዶክተር",
            "ፕ/ር": "ፕሮፌሰር",
            "ኢ/ር": "ኢንጂነር",
            "ወ/ሮ": "ወይዘሮ",
            "ወ/ት": "ወይዘሪት",
            "ጠ/ሚ": "ጠቅላይ ሚኒስትር",
            "ት/ቤት": "ትምህርት ቤት",
            "መ/ቤት": "መሥሪያ ቤት",
            "ም/ቤት": "ምክር ቤት",
            "ፍ/ቤት": "ፍርድ ቤት",
            "ክ/ከተማ": "ክፍለ ከተማ",
        },
        "whole_words": False,
    },
    {"name": "currency_last", "version": 1, "symbols": "$€£"},
    {
        "name": "replacements",
        "version": 1,
        "texts": {"%": " በመቶ ", "&": " እና ", "$": " ዶላር ", "€": " ዩሮ ", "£": " ፓውንድ "},
        "whole_words": False,
    },
    *plain("amharic_ordinals"),
    {"name": "numbers", "version": 1, "language": "am", "decimal_mark": "."},
    *plain("composition", "white_space"),
]
HOMOPHONES = {
    "name": "homophones",
    "version": 1,
    "letters": "ሐሑሒሓሔሕሖኀኁኂኃኄኅኆሠሡሢሣሤሥሦሧዐዑዒዓዔዕዖፀፁፂፃፄፅፆ",
    "written_as": "ሀሁሂሃሄህሆሀሁሂሃሄህሆሰሱሲሳሴስሶሷአኡኢኣኤእኦጸጹጺጻጼጽጾ",
}


@pytest.mark.parametrize(
    ("cleaning", "data"),
    [
        pytest.param(default_cleaner("bg"), BULGARIAN, id="default"),
        pytest.param(
            default_cleaner("kk"),
            [
                {"name": "turkic_i", "version": 1, "dotless": True},
                *BULGARIAN[:4],
                {"name": "numbers", "version": 1, "language": "kz", "decimal_mark": ","},
                *BULGARIAN[4:],
            ],
            id="turkic",
        ),
        pytest.param(amharic_cleaner(), AMHARIC, id="amharic"),
        pytest.param(amharic_cleaner(True), [*AMHARIC[:-2], HOMOPHONES, *AMHARIC[-2:]], id="homophones"),
    ],
)
def test_cleanings_as_json(cleaning: Cleaning, data: list[dict[str, Json]]) -> None:
    assert json.dumps(cleaning.to_dict()) == json.dumps(data), "the order of the names is the same too"
    restored = Cleaning.from_dict(json.loads(json.dumps(data)))
    assert restored == cleaning
    text = "Ẹ «ΟΔΟΣ» ፲፱፻፺ ዓ.ም። -1,234.5 $20 21ኛ ሐ IİI"
    assert restored(text) == cleaning(text)


@pytest.mark.parametrize(
    ("name", "parameters", "text", "cleaned"),
    [
        ("composition", {}, "e\u0301 A", "é A"),
        ("turkic_i", {"dotless": True}, "IİI\u0307i", "ıiii"),
        ("turkic_i", {"dotless": True}, "Iİ к", "Iİ к"),
        ("turkic_i", {"dotless": False}, "Iİ", "Ii"),
        ("ethiopic", {}, "ሀ፡፡ ሀ:: a:: ሀ፡- ፲፱፻፺ ፫::", "ሀ። ሀ። a:: ሀ፦ 1990 3።"),
        ("characters", {}, 'a"“”„‟″«»‹›〝〞〟＂「」『』《》〈〉b', "ab"),
        ("characters", {}, "‘’‚‛′`´＇ ‐‑‒–—―−﹣－⸺ …", "'''''''' ---------- ..."),
        ("characters", {}, "[{（［｛【 ]}）］｝】", "(((((( ))))))"),
        ("characters", {}, "。．｡።፨।॥۔။།។։ ，、､፣၊", "............ ,,,,,"),
        ("characters", {}, "；፤ ：፥፦ ？፧ ！ ፡", ";; ::: ?? !  "),
        ("characters", {}, "१٣۴５ a\u00ad\u200b\x07\ue000b \u200c\u200d\n", "1345 ab \u200c\u200d\n"),
        ("casing", {}, "À ΟΔΟΣ Iİ ᲛᲡ", "à οδος ii მს"),
        ("replacements", {"texts": {"a": "1", "ab": "2", "b": "3"}, "whole_words": False}, "ab ba cab", "2 31 c2"),
        (
            "replacements",
            {"texts": {"г.": "година", "д-р": "доктор", "kg": " кг"}, "whole_words": True},
            "д-р 5kg (2024г.), снег. г.а ад-р д-р\u0301 г. kg",
            "доктор 5 кг (2024година), снег. годинаа ад-р д-р\u0301 година  кг",
        ),
        ("currency_last", {"symbols": "$]€"}, "$20 € 1,5 ]3 4$ £5", "20$ 1,5€ 3] 4$ £5"),
        ("amharic_ordinals", {}, "21ኛ 1.5ኛ", "ሃያ አንደኛ 1.5ኛ"),
        (
            "numbers",
            {"language": "vi", "decimal_mark": ","},
            "1.234 007",
            "một nghìn hai trăm ba mươi bốn không không bảy",
        ),
        ("numbers", {"language": "vi", "decimal_mark": "."}, "-1.234", "-một.hai ba bốn"),
        ("homophones", {"letters": "ab", "written_as": "cd"}, "abc", "cdc"),
        ("white_space", {}, " a \t\n\u00a0b ", "a b"),
        ("coqui", {"language": "en"}, 'Dr.  "A" 5', "doctor a five"),
    ],
)
def test_version_1_of_each_step(name: str, parameters: dict[str, Json], text: str, cleaned: str) -> None:
    assert Step(name, 1, parameters).clean(text) == cleaned


# --- reading


def replacing(texts: object) -> list[dict[str, object]]:
    return [{"name": "replacements", "version": 1, "texts": texts, "whole_words": True}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param({}, "Expected a list of cleaning steps, got {}", id="not a list"),
        pytest.param(["casing"], "Expected each cleaning step to be an object .* got 'casing'", id="not a step"),
        pytest.param(
            [{"name": "casing"}], "Expected each cleaning step to be an object with a name, a version", id="no version"
        ),
        pytest.param([{"name": "emoji", "version": 1}], "step 'emoji'; xtts_extend .* a newer release", id="name"),
        pytest.param([{"name": ["casing"], "version": 1}], "Unknown cleaning step", id="malformed name"),
        pytest.param([{"name": "casing", "version": 2}], "'casing' is version 2, but .*Install a newer", id="newer"),
        pytest.param(
            [{"name": "casing", "version": 0}], "version 0; expected a whole number from 1 to 1", id="version 0"
        ),
        pytest.param([{"name": "casing", "version": True}], "version True; expected", id="malformed version"),
        pytest.param(
            [{"name": "numbers", "version": 1, "language": "vi"}],
            "step 'numbers' is missing the parameter 'decimal_mark'; its parameters are: language, decimal_mark",
            id="missing parameter",
        ),
        pytest.param(
            [{"name": "casing", "version": 1, "locale": "tr"}],
            "step 'casing' has an unknown parameter 'locale'; its parameters are: none",
            id="unknown parameter",
        ),
        pytest.param(
            [{"name": "numbers", "version": 1, "language": "tlh", "decimal_mark": "."}],
            "language = 'tlh'; expected a language code that num2words supports",
            id="language of numbers",
        ),
        pytest.param(
            [{"name": "numbers", "version": 1, "language": "kk", "decimal_mark": "."}], "language = 'kk'", id="kk is kz"
        ),
        pytest.param(
            [{"name": "numbers", "version": 1, "language": "vi", "decimal_mark": ";"}], "expected '.' or ','", id="mark"
        ),
        pytest.param([{"name": "turkic_i", "version": 1, "dotless": 1}], "dotless = 1; expected true", id="boolean"),
        pytest.param([{"name": "currency_last", "version": 1, "symbols": ""}], "symbols = ''", id="empty text"),
        pytest.param([{"name": "coqui", "version": 1, "language": "am"}], "expected one of coqui's own", id="coqui"),
        pytest.param(
            [{"name": "homophones", "version": 1, "letters": "ab", "written_as": "c"}],
            "2 characters in 'letters' and 1 in 'written_as'",
            id="pairs",
        ),
        pytest.param(replacing({}), "texts = {}; expected one or more non-empty strings", id="no texts"),
        pytest.param(replacing({"": "a"}), "expected one or more non-empty strings", id="empty"),
        pytest.param(replacing({"a": 1}), "expected one or more non-empty strings", id="number"),
        pytest.param(replacing({"Dr.": "doctor"}), "replaces 'Dr.', which never occurs, .* expected 'dr.'", id="case"),
        pytest.param(replacing({"e\u0301": "e"}), "expected 'é'", id="decomposed"),
    ],
)
def test_invalid_cleanings(data: Any, message: str) -> None:
    with pytest.raises(LanguageError, match=message):
        Cleaning.from_dict(data)


def test_a_step_keeps_its_own_parameters() -> None:
    parameters: dict[str, Json] = {"texts": {"&": " and "}, "whole_words": False}
    cleaning = Cleaning((Step("replacements", 1, parameters),))
    for texts in (parameters["texts"], cleaning.to_dict()[0]["texts"]):
        assert isinstance(texts, dict)
        texts["&"] = "x"
    assert cleaning("a&b") == "a and b"
    assert cleaning.to_dict()[0]["texts"] == {"&": " and "}


def test_cleanings_can_be_pickled_copied_and_hashed() -> None:
    cleaning = amharic_cleaner(fold_homophones=True)
    for duplicate in (pickle.loads(pickle.dumps(cleaning)), copy.deepcopy(cleaning)):
        assert duplicate == cleaning
        assert {duplicate, cleaning} == {cleaning}
        assert duplicate("ዶ/ር ኀ $5") == "ዶክተር ሀ አምስት ዶላር"
    assert cleaning != amharic_cleaner()


def test_insert_steps() -> None:
    cleaning = default_cleaner("bg").after("composition", Step("coqui", 1, {"language": "en"}))
    assert [step.name for step in cleaning.steps][:3] == ["composition", "coqui", "ethiopic"], (
        "the new step follows the first one of that name"
    )
    with pytest.raises(
        LanguageError, match="has no step named 'numbers'. Use the name of one of its steps: composition, ethiopic"
    ):
        default_cleaner("bg").after("numbers")


# --- the registry


def test_the_example_in_the_docs() -> None:
    abbreviations = Step("replacements", 1, {"texts": {"г.": "година", "д-р": "доктор"}, "whole_words": True})
    register_language(Language("bg", default_cleaner("bg").after("casing", abbreviations), char_limit=220))
    assert clean_text("Д\u2011Р Иванов, снег, 2024 Г.", "bg") == "доктор иванов, снег, 2024 година"
    cleaning, char_limit = cleaning_of("bg")
    assert (cleaning.steps[4], char_limit) == (abbreviations, 220)


@pytest.mark.parametrize(
    ("code", "cleaning", "char_limit"),
    [
        ("am", amharic_cleaner(), 130),
        ("yo", default_cleaner("yo"), 250),
        ("fr", Cleaning((Step("coqui", 1, {"language": "fr"}),)), 273),
        ("zh-cn", Cleaning((Step("coqui", 1, {"language": "zh"}),)), 82),
    ],
)
def test_cleaning_of(code: str, cleaning: Cleaning, char_limit: int) -> None:
    assert cleaning_of(code) == (cleaning, char_limit)


def test_coquis_own_languages_as_data() -> None:
    for code in sorted(STOCK_LANGUAGES):
        assert cleaning_of(code)[0].to_dict() == [{"name": "coqui", "version": 1, "language": code}]


def test_a_python_function_cannot_be_packed() -> None:
    def clean_yoruba(text: str) -> str:
        return text.lower()

    register_language(Language("yo", clean_yoruba))
    assert clean_text("Ẹ", "yo") == "ẹ"
    with pytest.raises(LanguageError, match=r"'yo' is Python code \(clean_yoruba\).*docs/languages.md.*--merged"):
        cleaning_of("yo")
    with pytest.raises(LanguageError, match="malformed"):
        cleaning_of("YO")
