from __future__ import annotations

import time

import pytest

from xtts_extend.corpus.words import Word, has_digits, join_words, locate_words, normalize, split_words
from xtts_extend.errors import LanguageError


def texts(text: str, language: str) -> list[str]:
    """Return the words with their separators, "|" after the end of a sentence and "," after the end of a phrase."""
    return [
        word.separator + word.text + ("|" if word.ends_sentence else "," if word.ends_phrase else "")
        for word in split_words(text, language)
    ]


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("cs", "Ahoj, světe!", ["Ahoj,,", " světe!|"]),
        ("cs", "„Ahoj!“ řekl. Šel.", ["„Ahoj!“,", " řekl.|", " Šel.|"]),
        ("cs", "– Ano – řekl.", ["– Ano –,", " řekl.|"]),
        ("en", "so—well—yes well-known", ["so—,", "well—,", "yes", " well-known|"]),
        ("en", 'He said: "No." She & I', ["He", " said:,", ' "No."|', " She", " &", " I|"]),
        ("fr", "Bonjour ! « Ça va ? » Oui.", ["Bonjour !|", " « Ça", " va ? »|", " Oui.|"]),
        ("am", "ሰላም፡ለዓለም፡፡ደህና፣ ነህ፧", ["ሰላም", " ለዓለም።|", "ደህና፣,", " ነህ፧|"]),
        ("fa", "می\u200cخواهم،\u200f کتاب؟", ["می\u200cخواهم،,", " کتاب؟|"]),
        ("hi", "क्षमा, \u00adहूँ।", ["क्षमा,,", " हूँ।|"]),
        ("th", "ชื่อเก่ง น้ำ", ["ชื่", "อ", "เก่", "ง|", " น้ำ|"]),
        ("th", "ดี iPhone ดี", ["ดี", " iPhone", " ดี|"]),
        ("lo", "ເກົ່າ", ["ເກົ່າ|"]),
        ("my", "က္ကန်ကို၊ ကောင်း။", ["က္က", "န်", "ကို၊,", " ကော", "င်း။|"]),
        ("km", "ក្រុងខ្មែរ ល្អ។", ["ក្រុ", "ង", "ខ្មែ", "រ,", " ល្អ។|"]),
        ("bo", "བོད་སྐད། ག", ["བོ", "ད་", "སྐ", "ད།|", " ག|"]),
        (
            "zh-cn",
            "他说：“你好”。「好！」见，iPhone。\n我",
            ["他", "说：,", "“你", "好”。|", "「好！」|", "见，,", "iPhone。|", "我|"],
        ),
        ("ja", "タワー、高い", ["タ", "ワ", "ー、,", "高", "い|"]),
        ("en", "…", ["…|"]),
        ("en", " \n", []),
    ],
)
def test_words(language: str, text: str, words: list[str]) -> None:
    assert texts(text, language) == words


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "It's $5, or 5 %.", "It's five dollars, or five percent."),
        ("en", "The 21st at 10:30", "The twenty-first at ten thirty"),
        ("en", "B12 US$5 5kg 1990s 1.2.2020 24/7 covid-19", "B12 US$5 5kg 1990s 1.2.2020 24/7 covid-nineteen"),
        ("cs", "Přišlo jich 21. Konec.", "Přišlo jich dvacet jedna. Konec."),
        ("cs", "Dne 21. srpna 10 000 lidí, -5 stupňů", "Dne 21. srpna deset tisíc lidí, -5 stupňů"),
        ("de", "Am 1. August 3,5 Liter", "Am erste August drei Komma fünf Liter"),
        ("fi", "21. elokuuta 5 €", "21. elokuuta 5 €"),
        ("am", "በ1990 21ኛ ፲፱፻ 25%", "በአንድ ሺህ ዘጠኝ መቶ ዘጠና ሃያ አንደኛ አንድ ሺህ ዘጠኝ መቶ ሃያ አምስት በመቶ"),
        ("ti", "፲፱፻ ሰብ", "1900 ሰብ"),
        ("ar", "٢١ كتاب ٥٪", "واحد و عشرون كتاب خمسة في المئة"),
        ("hi", "मैं 21 हूँ।", "मैं 21 हूँ।"),
        ("ja", "21人", "二十一人"),
        ("zh-cn", "5年", "5年"),
    ],
)
def test_numbers_are_spelled_out_or_keep_their_digits(language: str, text: str, expected: str) -> None:
    words = split_words(text, language)
    assert join_words(words) == expected
    assert has_digits(join_words(words)) == any(character.isdigit() for character in expected)


@pytest.mark.parametrize(
    ("language", "text", "spoken"),
    [
        ("en", "Dr. L’homme & “Don't!”", ["doctor", "l'homme", "and", "don't"]),
        ("en", "1990s ♪ twenty-one", ["1990s", "", "twentyone"]),
        ("am", "ዶ/ር፣ ሠላም።", ["ዶክተር", "ሠላም"]),
        ("az", "IŞIK İki", ["ışık", "iki"]),
        ("tr", "İki", ["iki"]),
        ("hy", "Ինչպե՞ս", ["ինչպես"]),
        ("fa", "می\u200cخواهم", ["میخواهم"]),
        ("zh-cn", "你，", ["你"]),
        ("vi", "Tie\u0302\u0301ng", ["tiếng"]),
    ],
)
def test_spoken_is_what_the_language_reads(language: str, text: str, spoken: list[str]) -> None:
    assert [word.spoken for word in split_words(text, language)] == spoken


def test_joining_gives_the_text_back() -> None:
    text = "„Ahoj,“ řekl – a šel. Pak… nic! 他说：“你好”。 ครับ ผม"
    words = split_words(text, "cs")
    assert join_words(words) == text
    assert join_words(words[1:3]) == "řekl – a"
    assert join_words([]) == ""


def test_offsets_are_those_of_the_normalized_text() -> None:
    text = normalize("Bylo 25 lidí.\r\nPak šli.")
    assert text == "Bylo 25 lidí.\nPak šli."
    located = [(offset, word.text) for offset, word in locate_words(text, "cs")]
    assert located == [(0, "Bylo"), (5, "dvacet"), (5, "pět"), (8, "lidí."), (14, "Pak"), (18, "šli.")]


def test_a_malformed_language_is_refused() -> None:
    with pytest.raises(LanguageError, match="'Amharic'"):
        split_words("ሰላም", "Amharic")


def test_huge_numbers_and_words_take_linear_time() -> None:
    start = time.process_time()
    assert split_words("1" * 5000, "en") == [Word("1" * 5000, "1" * 5000, "", True, True)]
    split_words("a." * 5000 + " " + "“" * 5000 + "ก" * 5000, "en")
    assert time.process_time() - start < 4
