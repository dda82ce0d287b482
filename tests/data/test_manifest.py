from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from samples import make_sample
from TTS.tts.datasets import formatters

from xtts_extend.data.manifest import read_manifest, read_manifests, write_manifest
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError, LanguageError, XttsExtendError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_coqui_manifest(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.csv",
        "audio_file|text|speaker_name\nwavs/a.wav|One, two.|anna\n\nwavs/b c.wav|Three|ben\n",
    )
    first, second = read_manifest(str(path), "en")
    assert first == Sample(
        text="One, two.",
        audio_file=str(tmp_path / "wavs" / "a.wav"),
        speaker_name="anna",
        root_path=str(tmp_path),
        language="en",
        manifest_audio_file="wavs/a.wav",
        manifest=str(path),
        line=2,
    )
    assert first.audio_unique_name == "train#wavs/a"
    assert (second.manifest_audio_file, second.line, second.speaker_name) == ("wavs/b c.wav", 4, "ben")


def test_texts_are_read_unchanged(tmp_path: Path) -> None:
    texts = [
        "nan",
        "None",
        "",
        "NULL",
        "1.50",
        '"To be" she said',
        '"',
        "it's\ttabbed",
        " padded ",
        "a\u2028b\x0cc",
        "ሰላም",
    ]
    path = write(tmp_path / "m.csv", "audio_file|text\n" + "".join(f"{i}.wav|{text}\n" for i, text in enumerate(texts)))
    assert [sample.text for sample in read_manifest(str(path), "en")] == texts


@pytest.mark.parametrize(
    "content", ["\ufeffaudio_file|text\na.wav|x\n", "audio_file|text\r\na.wav|x\r\n", "text|audio_file\nx|a.wav"]
)
def test_coqui_manifest_variants(tmp_path: Path, content: str) -> None:
    (sample,) = read_manifest(str(write(tmp_path / "m.csv", content)), "en")
    assert (sample.text, sample.manifest_audio_file, sample.speaker_name) == ("x", "a.wav", "speaker")


def test_ljspeech_manifest_finds_the_recordings(tmp_path: Path) -> None:
    for name in ("A-1.wav", "A-2.flac", "A-3.mp3", "A.4.ogg"):
        write(tmp_path / "wavs" / name, "")
    path = write(tmp_path / "metadata.csv", "A-1|one\nA-2|two\nA-3|three\nA.4|four\nA-5|five\n")
    samples = read_manifest(str(path), "en")
    names = ["A-1.wav", "A-2.flac", "A-3.mp3", "A.4.ogg", "A-5.wav"]
    assert [sample.audio_file for sample in samples] == [str(tmp_path / "wavs" / name) for name in names]
    assert [sample.manifest_audio_file for sample in samples] == ["A-1", "A-2", "A-3", "A.4", "A-5"]
    assert samples[3].text == "four"
    assert samples[3].audio_unique_name == "metadata#wavs/A.4"


def test_ljspeech_manifest_reads_the_normalized_text(tmp_path: Path) -> None:
    write(tmp_path / "wavs" / "A.wav", "")
    (sample,) = read_manifest(str(write(tmp_path / "metadata.csv", "A|in 1455|in fourteen fifty-five\n")), "en")
    assert sample.text == "in fourteen fifty-five"


def test_json_lines_manifest(tmp_path: Path) -> None:
    entries = [
        {"audio_file": "a.wav", "text": "one", "speaker_name": "anna", "language": "de"},
        {"audio_filepath": "/elsewhere/b.wav", "text": "two|\nlines", "duration": 3.5},
        {"audio": "c d/ሰላም.wav", "text": "nan", "language": None, "speaker_name": 7},
    ]
    path = write(tmp_path / "anything", "".join(json.dumps(entry) + "\n" for entry in entries))
    a, b, c = read_manifest(f"{path}:am", "en")
    assert [sample.language for sample in (a, b, c)] == ["de", "am", "am"]
    assert [sample.manifest_audio_file for sample in (a, b, c)] == ["a.wav", "/elsewhere/b.wav", "c d/ሰላም.wav"]
    assert b.audio_file == "/elsewhere/b.wav"
    assert c.audio_file == str(tmp_path / "c d" / "ሰላም.wav")
    assert (b.text, c.text) == ("two|\nlines", "nan")
    assert (a.speaker_name, b.speaker_name, c.speaker_name) == ("anna", "speaker", "7")


def test_language_of_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = "audio_file|text\na.wav|x\n"
    for name in ("train.csv", "12:30.csv", "Мои записи/список файлов.csv", "odd:name"):
        write(tmp_path / name, content)

    def language(spec: str, default: str | None) -> str:
        (sample,) = read_manifest(spec, default)
        return sample.language

    assert language("train.csv", "am") == "am"
    assert language("train.csv:sw", "am") == "sw"
    assert language("train.csv:zh-cn", None) == "zh-cn"
    assert language("12:30.csv", "am") == "am"
    assert language("12:30.csv:sw", "am") == "sw"
    assert language("Мои записи/список файлов.csv:sw", None) == "sw"
    # There is no file `odd`, so the name includes the colon.
    assert language("odd:name", "am") == "am"
    with pytest.raises(DataError, match=r"train\.csv, line 2 has no language"):
        language("train.csv", None)
    with pytest.raises(LanguageError, match="'AM' is not a language code"):
        language("train.csv:AM", None)
    with pytest.raises(LanguageError):
        language("train.csv", "Amharic!")
    with pytest.raises(DataError, match=r"There is no manifest file 'missing\.csv"):
        language("missing.csv:am", None)
    with pytest.raises(DataError, match="There is no manifest file"):
        language("C:\\data\\train.csv", "am")
    with pytest.raises(DataError, match="There is no manifest file"):
        language("", "am")
    with pytest.raises(DataError, match="There is no manifest file"):
        language("x" * 5000, "am")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        ("audio_file|text\n", "a header but no rows"),
        ("audio_file|mood\na.wav|x\n", r"the columns audio_file, mood\. Expected"),
        ("mood|text|speaker_name\na.wav|x|y\n", r"the columns mood, text, speaker_name\. Expected"),
        ("audio_file|text|text\na.wav|x|y\n", "Each name must occur only once"),
        ("audio_file|text\na.wav|x\nb.wav|x|y\nc.wav\n", "Expected 2 columns.*line 3 has 3, line 4 has 1"),
        ("No table at all.\nNone.\n", "unknown format: its first line is 'No table at all"),
        ("one, two\nthree, four\n", "unknown format: its first line has the columns 'one', ' two'.*--columns"),
        ("path|sentence|locale\na.wav|x|y\n", "line 2: Language code 'y'"),
        ('{"audio_file": "a.wav", "text": "x"}\n{"audio_file": "b.wav"\n', "line 2 is not JSON"),
        ('{"audio_file": "a.wav"}\n', r"line 1 has the keys audio_file\. Expected audio_file and text"),
        ('{"text": "x"}\n', r"line 1 has the keys text\. Expected"),
        ('{"audio_file": null, "text": "x"}\n', "Expected a string for audio, got None"),
        ('{"audio_file": "a.wav", "text": true}\n', "Expected a string for text, got True"),
        ('{"audio_file": "a.wav", "text": ["x"]}\n', "Expected a string for text, got .'x'."),
        ('{"audio_file": "a.wav", "text": {"en": "x"}}\n', "Expected a string for text, got .'en': 'x'."),
        ('{"audio": {"url": "a.wav"}, "text": "x"}\n', "Expected a string for audio, got .'url': 'a.wav'."),
        ('{"audio_file": "a.wav", "text": "x", "language": "E!"}\n', "line 1: "),
        ('{"audio_file": "a.wav", "text": "x"}\n[1]\n', "line 2 is a JSON value of type list"),
    ],
)
def test_errors_name_the_problem(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "m.csv", content)
    with pytest.raises(XttsExtendError, match=message) as caught:
        read_manifest(str(path), "en")
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_encoding_is_named_by_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"audio_file|text\na.wav|caf\xe9\n")
    with pytest.raises(DataError, match=r"not UTF-8: byte 25 \(line 2\) is 0xe9"):
        read_manifest(str(path), "en")


def test_a_folder_needs_a_formatter(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_manifest(str(tmp_path), "en")


def test_coqui_formatter(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "A|in 14|in fourteen\nB|x|y\nC|x|z\n")
    samples = read_manifest(f"{path}:sw", None, format="ljspeech_test")
    assert [sample.text.strip() for sample in samples] == ["in fourteen", "y", "z"]
    assert [sample.speaker_name for sample in samples] == ["ljspeech-1", "ljspeech-1", "ljspeech-2"]
    assert [sample.language for sample in samples] == ["sw"] * 3
    assert samples[0].audio_file == str(tmp_path / "wavs" / "A.wav")
    assert samples[0].manifest_audio_file == "wavs/A.wav"
    assert samples[0].audio_unique_name == "list#wavs/A"
    assert samples[0].root_path == str(tmp_path)


def test_user_formatter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder_formatter(root_path, meta_file, **kwargs):
        assert meta_file == ""
        files = sorted(Path(root_path).glob("*.txt"))
        return [
            {
                "text": file.read_text(),
                "audio_file": f"{file}.wav",
                "speaker_name": "me",
                "root_path": root_path,
                "mood": 3,
            }
            for file in files
        ]

    monkeypatch.setattr(formatters, "_FORMATTER_REGISTRY", formatters._FORMATTER_REGISTRY.copy())
    monkeypatch.setattr("TTS.tts.datasets._FORMATTER_REGISTRY", formatters._FORMATTER_REGISTRY)
    formatters.register_formatter("my_folder", folder_formatter)
    for name in "ab":
        write(tmp_path / "записи 1" / f"{name}.txt", f"text {name}")
    samples = read_manifest(str(tmp_path / "записи 1"), "en", format="my_folder")
    assert [(s.text, s.manifest_audio_file, s.line, s.extra) for s in samples] == [
        ("text a", "a.txt.wav", None, {"mood": 3}),
        ("text b", "b.txt.wav", None, {"mood": 3}),
    ]
    with pytest.raises(DataError, match="has no language"):
        read_manifest(str(tmp_path / "записи 1"), None, format="my_folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="formatter 'my_folder' cannot read"):
        read_manifest(str(tmp_path / "empty"), "en", format="my_folder")


def test_formatter_keys_become_fields_or_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are paths, numbers or missing; there is a reference, and keys that coqui does not define."""
    entries = [
        {"text": 1999, "audio_file": tmp_path / "a.wav", "root_path": tmp_path, "reference_path": tmp_path / "b.wav"},
        {"text": "x", "audio_file": str(tmp_path / "b.wav"), "root_path": tmp_path, "speaker_name": 7, "replay": True},
    ]
    monkeypatch.setattr(formatters, "_FORMATTER_REGISTRY", formatters._FORMATTER_REGISTRY.copy())
    monkeypatch.setattr("TTS.tts.datasets._FORMATTER_REGISTRY", formatters._FORMATTER_REGISTRY)
    formatters.register_formatter("two", lambda root_path, meta_file, **kwargs: [dict(entry) for entry in entries])
    first, second = read_manifest(str(tmp_path), "en", format="two")
    assert (first.text, first.audio_file, first.speaker_name) == ("1999", str(tmp_path / "a.wav"), "speaker")
    assert (first.reference_path, first.root_path, first.extra) == (str(tmp_path / "b.wav"), str(tmp_path), None)
    assert first.to_coqui()["reference_path"] == str(tmp_path / "b.wav")
    assert (second.speaker_name, second.replay, second.extra) == ("7", False, {"replay": True})
    del entries[1]["text"]
    with pytest.raises(DataError, match="formatter 'two' cannot read .*KeyError: 'text'"):
        read_manifest(str(tmp_path), "en", format="two")


def test_formatter_for_another_format(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "A|only two\n")
    with pytest.raises(DataError, match=r"'ljspeech_test' cannot read .*list\.csv: IndexError"):
        read_manifest(str(path), "en", format="ljspeech_test")
    with pytest.raises(DataError, match="no_such_formatter formatter not found"):
        read_manifest(str(path), "en", format="no_such_formatter")


def test_a_relative_path_gives_absolute_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "m.csv", "audio_file|text\n../b.wav|x\n")
    monkeypatch.chdir(tmp_path)
    (sample,) = read_manifest("in/m.csv", "en")
    assert sample.audio_file == str(tmp_path / "in" / ".." / "b.wav")
    assert (sample.root_path, sample.manifest) == (str(tmp_path / "in"), str(tmp_path / "in" / "m.csv"))


def test_several_manifests_keep_their_order(tmp_path: Path) -> None:
    one = write(tmp_path / "1.csv", "audio_file|text\na.wav|x\nb.wav|y\n")
    two = write(tmp_path / "2.jsonl", '{"audio": "c.wav", "text": "z"}\n')
    samples = read_manifests([f"{two}:de", str(one), f"{one}:sw"], "en")
    assert [(s.manifest_audio_file, s.language) for s in samples] == [
        ("c.wav", "de"), ("a.wav", "en"), ("b.wav", "en"), ("a.wav", "sw"), ("b.wav", "sw"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="No manifest was passed"):
        read_manifests([], "en")


def test_human_speech(shared_data: Path) -> None:
    samples = read_manifest(str(shared_data / "ljspeech" / "metadata.csv"), "en")
    assert len(samples) == 8
    assert samples[6].text.count('"') == 2
    assert all(Path(sample.audio_file).is_file() for sample in samples)


def test_written_manifests_read_back(tmp_path: Path) -> None:
    source = write(tmp_path / "in" / "m.csv", "audio_file|text|speaker_name\nw/a.wav|one|anna\nw/ሰላም b.wav|nan|ben\n")
    samples = read_manifest(str(source), "am")
    fields = ("text", "audio_file", "speaker_name", "language")
    for target in (tmp_path / "in" / "clean.csv", tmp_path / "out" / "clean.csv", tmp_path / "out" / "clean.jsonl"):
        write_manifest(samples, target)
        again = read_manifest(str(target), "am")
        assert [[getattr(sample, name) for name in fields] for sample in again] == [
            [getattr(sample, name) for name in fields] for sample in samples
        ]
        assert sorted(target.parent.glob(".*")) == []
    assert (tmp_path / "in" / "clean.csv").read_text() == source.read_text()


def test_samples_without_a_manifest_can_be_written(tmp_path: Path) -> None:
    sample = make_sample("x", audio_file=str(tmp_path / "a.wav"), speaker_name="me")
    write_manifest([sample], tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "audio_file|text|speaker_name\na.wav|x|me\n"


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(tmp_path / "m.csv", "audio_file|text\na.wav|x\n")
    (tmp_path / "taken.csv").mkdir()
    for target in (source / "below a file.csv", tmp_path / "taken.csv"):
        with pytest.raises(ConfigError, match=r"is a file; expected a folder|is a folder; expected a file"):
            write_manifest(read_manifest(str(source), "en"), target)
    assert sorted(tmp_path.glob(".*")) == []


def test_nulls_and_numbers_become_texts(tmp_path: Path) -> None:
    cells = ["null", "1999", "3.5", "1999.0", "NaN", '""', '"x"']
    lines = "".join(f'{{"id": {index}, "text": {cell}}}\n' for index, cell in enumerate(cells))
    samples = read_manifest(str(write(tmp_path / "m.jsonl", lines)), "en")
    assert [sample.text for sample in samples] == ["", "1999", "3.5", "1999", "", "", "x"]
    assert [sample.manifest_audio_file for sample in samples] == list("0123456")


def test_json_lines_keep_languages_separators_and_line_breaks(tmp_path: Path) -> None:
    entries = [("a|b.wav", "one | two\nthree", "de"), ("c.wav", "x", "en")]
    source = write(
        tmp_path / "m.jsonl",
        "".join(json.dumps({"audio": a, "text": t, "language": code}) + "\n" for a, t, code in entries),
    )
    samples = read_manifest(str(source), None)
    write_manifest(samples, tmp_path / "clean.jsonl")
    again = read_manifest(str(tmp_path / "clean.jsonl"), None)
    assert [(s.manifest_audio_file, s.text, s.language) for s in again] == entries
    with pytest.raises(DataError, match=r"no language column, but the samples are in de, en.*\.jsonl"):
        write_manifest(samples, tmp_path / "clean.csv")
    with pytest.raises(DataError, match=r"cannot represent .*\.jsonl"):
        write_manifest(samples[:1], tmp_path / "clean.csv")
    with pytest.raises(DataError, match="There are no samples to write"):
        write_manifest([], tmp_path / "clean.csv")
    assert not (tmp_path / "clean.csv").exists()


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "m.csv", "audio_file|text\na.wav|x\n")
    (tmp_path / "link.csv").symlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / "link.csv", tmp_path / "a.wav"):
        with pytest.raises(DataError, match=r"The samples were read from .*, so it will not be overwritten"):
            write_manifest(read_manifest(str(source), "en"), target)
    assert source.read_bytes() == before


def test_accents_in_coquis_languages_are_composed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other languages are composed by their cleaners. Characters that NFC decomposes are unchanged."""
    caplog.set_level(logging.INFO)
    decomposed = unicodedata.normalize("NFD", "été ạ́")
    texts = [
        ("fr", decomposed),
        ("fr", "été"),
        ("ko", unicodedata.normalize("NFD", "한국")),
        ("yo", decomposed),
        ("hi", "\u0958"),
    ]
    (tmp_path / "m.csv").write_text(
        "audio|text|lang\n" + "".join(f"a.wav|{text}|{language}\n" for language, text in texts), encoding="utf-8"
    )
    read = [sample.text for sample in read_manifest(str(tmp_path / "m.csv"), None)]
    assert read == [unicodedata.normalize("NFC", decomposed), "été", "한국", decomposed, "\u0958"]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "Composed combining accents (NFD to NFC) in texts with language 'fr': 1.",
        "Composed combining accents (NFD to NFC) in texts with language 'ko': 1.",
    ]
