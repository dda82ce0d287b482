from __future__ import annotations

import time
from pathlib import Path

import pytest

from xtts_extend.corpus.transcript import read_transcript, words_of_transcript
from xtts_extend.errors import DataError


@pytest.mark.parametrize(
    ("content", "language", "text"),
    [
        ("Kapitola 1\n\nŽil | byl.\n".encode(), "cs", "Kapitola 1\n\nŽil | byl.\n"),
        ("ሰላም".encode("utf-16"), "am", "ሰላም"),
        ("Žluťoučký kůň".encode("cp1250"), "cs", "Žluťoučký kůň"),
        ("Привет".encode("cp1251"), "uk", "Привет"),
    ],
)
def test_texts(tmp_path: Path, content: bytes, language: str, text: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert read_transcript(path, language) == text
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "is empty"),
        ("1\n00:00:01,000 --> 00:00:02,000\nAhoj\n", "SRT or WebVTT subtitles"),
        ("WEBVTT\n\n", "WebVTT subtitles"),
        ("audio_file|text\na.wav|Ahoj\nb.wav|Ahoj\n", "a table, such as a manifest"),
        ("LJ001-0001|Printing|Printing\nLJ001-0002|in being|in being\n", "a table, such as a manifest"),
        ('a.wav,"Ahoj, světe"\nb.wav,Ahoj\n', "a table, such as a manifest"),
        ('{"audio": "a.wav", "text": "Ahoj"}\n', "JSON"),
        ("<html><body>Ahoj</body></html>", "XML or HTML"),
    ],
)
def test_other_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"text\.txt.*{message}"):
        read_transcript(path, "cs")


def test_damaged_text_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "text.txt"
    path.write_text("PÅ™Ã\u00adliÅ¡ Å¾luÅ¥ouÄ\x8dkÃ½", encoding="utf-8")
    read_transcript(path, "cs")
    assert "The text is damaged (UTF-8 decoded as a different encoding" in caplog.text


def test_stage_directions_are_not_spoken_but_other_words_in_brackets_are() -> None:
    words = words_of_transcript("Ano (laughs) [applause] řekl [prý] on (ten).", "cs")
    assert [word.text for word in words] == ["Ano", "řekl", "[prý]", "on", "(ten)."]


def test_long_texts_take_linear_time() -> None:
    paragraph = "„Ahoj,“ řekl Dr. Novák. Bylo mu 25 let, a nikdo\nnevěděl proč!\n\n"
    start = time.process_time()
    words = words_of_transcript(paragraph * 500, "cs")
    assert time.process_time() - start < 4
    assert len(words) == 6500
    assert sum(word.ends_sentence for word in words) == 1000
