"""Manifests in the formats of other tools, of spreadsheets, and as people write them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from xtts_extend.data.columns import parse_columns
from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.rows import read_rows, texts_of_manifest
from xtts_extend.errors import ConfigError, DataError

A, B = "wavs/a1.wav", "wavs/a2.wav"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the empty recordings a1, a2 and a3 in `wavs`."""
    (tmp_path / "wavs").mkdir()
    for name in ("a1", "a2", "a3"):
        (tmp_path / "wavs" / f"{name}.wav").touch()
    return tmp_path


def read(
    folder: Path, content: str | bytes, columns: str = "", format: str = "auto"
) -> list[tuple[str, str, str, str]]:
    """Return the recording, text, speaker and language of each sample of an Amharic manifest."""
    path = folder / "manifest"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    samples = read_manifest(f"{path}:am", None, format, parse_columns(columns) if columns else None)
    files = [Path(sample.audio_file).relative_to(folder).as_posix() for sample in samples]
    return [
        (file, sample.text, sample.speaker_name, sample.language) for file, sample in zip(files, samples, strict=True)
    ]


def rows(*texts: str, speaker: str = "speaker", language: str = "am") -> list[tuple[str, str, str, str]]:
    return [(f"wavs/a{number}.wav", text, speaker, language) for number, text in enumerate(texts, 1)]


NAMED = {
    "comma": ("file_name,transcription\nwavs/a1.wav,One\nwavs/a2.wav,Two\n", rows("One", "Two")),
    "comma quoted": (f'path,sentence\n{A},"One, ""two"""\n"{B}",Two\n', rows('One, "two"', "Two")),
    "comma, backslashes before quotes": ('path,text\n"wavs\\a1.wav","\\"One\\" two"\n', rows('"One" two')),
    "comma over lines": (f'file,text\n{A},"One\ntwo"\n{B},Two\n', rows("One\ntwo", "Two")),
    "comma and spaces": (f'file_name, text\n{A}, "One, two"\n', rows("One, two")),
    "semicolon": (f"Audio File;Transcript;Speaker\n{A};One, two;anna\n", rows("One, two", speaker="anna")),
    "semicolon quoted": (f'audio;text\n{A};"One; two"\n', rows("One; two")),
    "excel's sep": (f"sep=;\r\naudio;text\r\n{A};One\r\n", rows("One")),
    "tab": (f'client_id\tpath\tsentence\tlocale\nx\t{A}\t"Quoted" one\tam-ET\n', rows('"Quoted" one', speaker="x")),
    "tab quoted": (f'path\tsentence\n"{A}"\t"One ""two"""\n"{B}"\t"Two"\n', rows('One "two"', "Two")),
    "pipe quoted, header too": (f'"audio_file"|"text"\n"{A}"|"One | two"\n', rows("One | two")),
    "pipe, quotes here and there": (f'audio_file|text\n{A}|"One"\n{B}|"Two\n', rows('"One"', '"Two')),
    "spaces at pipes": (f"audio_file | text | speaker_name\n{A} | One. | anna\n", rows("One.", speaker="anna")),
    "capitals": (f"WAV_PATH|RAW_TEXT\n{A}|One\n", rows("One")),
    "camel case": (f"audioFile,rawTranscription,speakerId\n{A},One,7\n", rows("One", speaker="7")),
    "normalised text": (f"ID|Transcription|Normalized Transcription\n{A}|1|One\n", rows("One")),
    "deepspeech": (f"wav_filename,wav_filesize,transcript\n{A},123,One\n", rows("One")),
    "index column of pandas": (f",file_name,text\n0,{A},One\n1,{B},Two\n", rows("One", "Two")),
    "empty columns at the end": (f"audio,text,,\n{A},One,,\n{B},Two\n", rows("One", "Two")),
    "separator at the end of rows": (f"audio|text\n{A}|One|\n{B}|Two|\n", rows("One", "Two")),
    "blank rows": (f"audio;text\n{A};One\n;\n ; \n{B};Two\n", rows("One", "Two")),
    "nan and None": (f"file,text,speaker\n{A},nan,None\n{B},None,None\n", rows("nan", "None", speaker="None")),
    "blank column": (f"file,text,normalized_text\n{A},One,\n", rows("One")),
    "languages": (f"file|text|lang\n{A}|One|EN\n", rows("One", language="en")),
    "returns of an old Mac": (f"audio|text\r{A}|One\r{B}|Two\r", rows("One", "Two")),
    "utf-16": (f"audio\ttext\n{A}\tሰላም\n".encode("utf-16"), rows("ሰላም")),
    "utf-16 without a mark": (f"audio\ttext\n{A}\tሰላም\n".encode("utf-16-be"), rows("ሰላም")),
    "utf-8 mark and quotes": (f'\ufeff"audio","text"\n"{A}","One"\n'.encode(), rows("One")),
}


@pytest.mark.parametrize(("content", "expected"), NAMED.values(), ids=NAMED)
def test_tables_with_a_header(folder: Path, content: str, expected: list[tuple[str, ...]]) -> None:
    assert read(folder, content) == expected


PLACED = {
    "id, text": ("a1|One text\na2|Two texts\n", rows("One text", "Two texts")),
    "id, text, normalised": ("a1|In 14|In fourteen\na2|So|So\n", rows("In fourteen", "So")),
    "one word each": ("a1|Yes|yes\na2|Yes|yes\na3|Yes|yes\n", rows("yes", "yes", "yes")),
    "piper": (
        "a1|anna|One text here\na2|anna|Two texts here\n",
        rows("One text here", "Two texts here", speaker="anna"),
    ),
    "styletts": (f"{A}|One text|0\n{B}|Two texts|0\n", rows("One text", "Two texts", speaker="0")),
    "gpt-sovits": (
        f"{A}|anna|EN|One text.\n{B}|anna|EN|Two.\n",
        rows("One text.", "Two.", speaker="anna", language="en"),
    ),
    "bert-vits": (f"{A}|anna|EN|One.|w ʌ n|0 1\n", rows("One.", speaker="anna", language="en")),
    "tab, pipe in the text": (f"One|1\t{A}\n", rows("One|1")),
    "languages of two kinds": (f"{A}|x|JP|One.\n", rows("One.", speaker="x", language="ja")),
    "initials": (f"{A}|AB|One text.\n{B}|AB|Two texts.\n", rows("One text.", "Two texts.", speaker="AB")),
    "an unknown code": (f"{A}|x|SW|One.\n", rows("One.", speaker="x", language="sw")),
    "language last": (f"{A}|One text.|am\n{B}|Two texts.|am\n", rows("One text.", "Two texts.")),
    "text first": (f"One text.|{A}\n", rows("One text.")),
    "tab": ("a1\tOne, two; three\na2\tTwo\n", rows("One, two; three", "Two")),
    "comma": (f'{A},"One, two"\n{B},Two\n', rows("One, two", "Two")),
    "comma quoted, pipe in the text": (f'{A},"One | two"\n{B},Two\n', rows("One | two", "Two")),
    "nothing in the third": ("a1|One|\na2|Two|\n", rows("One", "Two")),
    "third only sometimes": ("a1|One|\na2|2|Two\n", rows("", "Two")),
}


@pytest.mark.parametrize(("content", "expected"), PLACED.values(), ids=PLACED)
def test_tables_without_a_header(folder: Path, content: str, expected: list[tuple[str, ...]]) -> None:
    assert read(folder, content) == expected


CHOSEN = {
    "names": (f"Satz,Datei\nOne,{A}\n", "text=satz,audio=Datei", rows("One")),
    "a name beside known ones": (f"file,text,clean\n{A},One,1\n", "text=clean", rows("1")),
    "numbers": (f"x|{A}|y|One\n", "text=4,audio=2", rows("One")),
    "speaker alone": ("a1|One text|anna\na2|Two|anna\n", "speaker=3", rows("One text", "Two", speaker="anna")),
    "text alone": ("a1|One text|anna\na2|Two|anna\n", "text=3", rows("anna", "anna")),
    "no speaker, no language": (f"file,text,voice,lang\n{A},One,x,en\n", "speaker=,language=", rows("One")),
    "numbers beside a header": (f"file,text\n{A},One\n", "audio=1,text=2", rows("One")),
}


@pytest.mark.parametrize(("content", "columns", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_columns(folder: Path, content: str, columns: str, expected: list[tuple[str, ...]]) -> None:
    assert read(folder, content, columns) == expected


OBJECTS = {
    "array": (
        json.dumps([{"path": A, "sentence": "One"}, {"path": B, "sentence": "Two"}], indent=1),
        rows("One", "Two"),
    ),
    "array in an object": (json.dumps({"version": 1, "data": [{"file": A, "text": "One"}]}, indent=1), rows("One")),
    "array on one line": ('{"data": [{"file": "wavs/a1.wav", "text": "One"}]}', rows("One")),
    "nemo": ('{"audio_filepath": "wavs/a1.wav", "duration": 1.5, "offset": 0, "text": "One"}\n', rows("One")),
    "hugging face": ('{"audio": {"path": "wavs/a1.wav", "bytes": null}, "transcription": "One"}\n', rows("One")),
    "keys that differ": (
        '{"wav": "a1", "text": "One"}\n{"text": "Two", "file": "a2", "speaker": null}\n',
        rows("One", "Two"),
    ),
    "null in the better key": ('{"file": "a1", "normalized_text": null, "text": "One"}\n', rows("One")),
}


@pytest.mark.parametrize(("content", "expected"), OBJECTS.values(), ids=OBJECTS)
def test_json(folder: Path, content: str, expected: list[tuple[str, ...]]) -> None:
    assert read(folder, content) == expected


STOPS = {
    "speakers in the third": (
        "a1|one text here|anna\na2|more text|anna\na3|text|ben\n",
        "column 3 .anna, ben. looks like speaker names.*--columns text=2,speaker=3",
    ),
    "one row of that": ("a1|one text here|anna\n", "looks like speaker names"),
    "five columns": (f"{A}|x|y|z|One\n", "unknown format.*--columns audio=1,text=2"),
    "comma in a text": (f"file,text\n{A},One, two\n", "2 columns separated by commas, but line 2 has 3.*quotation"),
    "one column of two is known": ("file|text1|text2\na1|One|Two\n", r"the columns file, text1, text2\. Expected"),
    "another header": (f"audio_file|text\n{A}|One\ntext|audio_file\nTwo|{B}\n", "line 3, is a second header"),
    "quotation mark": (f'file,text\n{A},"One\n{B},Two\n', "opened on line 2 is not closed.*lines 2 to 3"),
    "two quotation marks": (f'file,text\n{A},"One\n{B},Two"\n', "opened on line 2 is not closed.*lines 2 to 3"),
    "quotation mark in the last": (f'file,text\n{A},One\n{B},"Two\n', "opened on line 3"),
    "spreadsheet": (b"PK\x03\x04rest", "spreadsheet.*CSV in UTF-8"),
    "windows-1252": (f"audio|text\n{A}|caf".encode() + b"\xe9", "not UTF-8.*line 2.*0xe9.*WINDOWS-1252"),
    "parts of recordings": (
        '{"audio_filepath": "a1", "text": "One", "offset": 2.5}',
        "line 1 is a segment .*offset 2.5",
    ),
    "unknown language": (f"file,text,lang\n{A},One,Klingon (Qo'noS)\n", "line 2: .*is neither a language code nor"),
    "array that ends too early": ('[{"file": "a1", "text": "One"},', "is not JSON"),
    "number in an array": ('[{"file": "a1", "text": "One"}, 7]', "entry 2 is a JSON value of type int"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), STOPS.values(), ids=STOPS)
def test_ambiguous_or_broken_manifests(folder: Path, content: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        read(folder, content)
    assert getattr(caught.value, "exit_code", None) == 2


def test_columns_that_do_not_exist(folder: Path) -> None:
    with pytest.raises(DataError, match=r"specifies 'satz' for text, but the header has the columns file, text"):
        read(folder, f"file,text\n{A},One\n", "text=satz")
    with pytest.raises(
        DataError, match=r"specifies '3' for text, but .* has no header. Expected a column number from 1 to 2"
    ):
        read(folder, f"{A}|One\n", "text=3")
    for wrong in ("text", "texts=1", "text=1,text=2", "text="):
        with pytest.raises(ConfigError, match="--columns"):
            parse_columns(wrong)


def test_ids_without_recordings(folder: Path) -> None:
    expected = [("wavs/b1.wav", "One", "speaker", "am"), ("wavs/b2.wav", "Two", "speaker", "am")]
    assert read(folder, "b1|One\nb2|Two\n") == expected


def test_the_ljspeech_format_reads_apparent_speakers_as_texts(folder: Path) -> None:
    assert read(folder, "a1|one text|anna\na2|two texts|anna\n", format="ljspeech") == rows("anna", "anna")


def test_skipped_rows_and_converted_values_are_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    content = f"file|text|transcript|lang\n{A}|One|x|EN\n|||\nFile|Text|Transcript|Lang\n{B}|Two|y|EN\n"
    assert read(folder, content) == rows("One", "Two", language="en")
    messages = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert messages == [
        "Skipped blank rows (1 in total, starting on line 3).",
        "Skipped repeated headers on these lines: 4.",
        "Reading text from column text, not from transcript.",
        "Interpreting the language 'EN' as 'en' (number of rows: 2).",
    ]


@pytest.mark.parametrize(
    ("spelled", "code"),
    [
        ("EN", "en"), ("en-US", "en"), ("en_GB", "en"), ("English", "en"), ("deu", "de"), ("JP", "ja"), ("KO", "ko"),
        ("zh", "zh"), ("ZH", "zh-cn"), ("zh-CN", "zh-cn"), ("zh-TW", "zh-cn"), ("Chinese", "zh-cn"), ("am_et", "am"),
        ("nan-tw", "nan"), ("YUE", "yue"), ("ckb", "ckb"), (" pt-BR ", "pt"), ("", "am"),
    ],
)  # fmt: skip
def test_spellings_of_languages(folder: Path, spelled: str, code: str) -> None:
    assert read(folder, f"file|text|language\n{A}|One|{spelled}\n") == rows("One", language=code)


def test_line_numbers_are_those_of_the_file(folder: Path) -> None:
    (folder / "m.csv").write_text('sep=,\nfile,text\n\na1,"One\ntwo"\na2,Two\nfile,text\na3,Three\n')
    assert read_rows(folder / "m.csv", {}).lines == [4, 6, 8]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("audio_file|text\na.wav|One\n", ["One"]),
        ("a.wav|One\nb.wav|Two\n", ["One", "Two"]),
        ("a1|One\na2|Two\n", ["One", "Two"]),
        ('"a.wav","One, two"\n"b.wav","Two"\n', ["One, two", "Two"]),
        ("one, two\rthree\n" + "four, five " * 20000, None),
        ('{"audio": "a.wav", "text": "One"}\n', ["One"]),
        ("A sentence, with a comma.\nAnother, too.\n", None),
        ("To be; or not\nto be; that\n", None),
        ("Text\nfile, text\n", None),
        ("a | b\n", None),
        ("", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts_of_a_manifest(folder: Path, content: str, texts: list[str] | None) -> None:
    (folder / "file.txt").write_text(content)
    assert texts_of_manifest(folder / "file.txt") == texts


WILD = {
    "huggingface-metadata.csv": [(A, "One, with a comma", "speaker"), (B, "Two", "speaker")],
    "common-voice.tsv": [(A, "One text.", "x1"), (B, '"Quoted" text.', "x2")],
    "gpt-sovits.list": [(A, "One text.", "anna"), (B, "Two texts.", "anna")],
    "path-in-headerless.csv": [(A, "One text.", "speaker"), (B, "Two texts.", "speaker")],
    "name-with-suffix.csv": [(A, "One text.", "speaker"), (B, "Two texts.", "speaker")],
    "upper-suffix.csv": [("wavs/up.WAV", "One text.", "speaker"), ("wavs/op.opus", "Two texts.", "speaker")],
    "backslashes.csv": [(A, "One text.", "speaker")],
    "spaces-at-pipes.csv": [(A, "One text.", "anna")],
    "quoted-fields.csv": [(A, "Plain text", "anna")],
    "joined-with-header-twice.csv": [(A, "One.", "speaker"), (B, "Two.", "speaker")],
}


@pytest.mark.parametrize(("name", "expected"), WILD.items(), ids=WILD)
def test_real_manifests(shared_data: Path, name: str, expected: list[tuple[str, str, str]]) -> None:
    wild = shared_data / "wild"
    samples = read_manifest(f"{wild / name}:en", None)
    assert [(s.audio_file, s.text, s.speaker_name) for s in samples] == [
        (str(wild / file), text, speaker) for file, text, speaker in expected
    ]
    assert {sample.language for sample in samples} == {"en"}
    assert all(Path(sample.audio_file).is_file() for sample in samples)
    assert texts_of_manifest(wild / name) == [text for _, text, _ in expected]


def test_speakers_in_the_third_column_of_a_real_manifest(shared_data: Path) -> None:
    path = shared_data / "wild" / "speaker-third.csv"
    with pytest.raises(DataError, match=r"column 3 \(anna\) looks like speaker names"):
        read_manifest(str(path), "en")
    samples = read_manifest(str(path), "en", columns={"text": "2", "speaker": "3"})
    assert (samples[0].text, samples[0].speaker_name) == ("one text here", "anna")


def test_texts_of_a_real_manifest(shared_data: Path) -> None:
    texts = texts_of_manifest(shared_data / "wild" / "manifest-as-corpus.csv")
    assert texts == ["ሰላም ለዓለም 😀", "ቡና https://x.et/@a"]
    assert [texts_of_manifest(path) for path in sorted((shared_data / "udhr").glob("*.txt"))] == [None] * 14
