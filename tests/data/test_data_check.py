from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from processes import two_processes
from rich.console import Console
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend import progress
from xtts_extend.data import recordings
from xtts_extend.data.audio import load_audio
from xtts_extend.data.check import DataLimits, check_samples
from xtts_extend.data.manifest import read_manifest
from xtts_extend.data.sample import Sample
from xtts_extend.errors import ConfigError, DataError, LanguageError

LIMITS = DataLimits(sample_rate=22050, max_wav_length=3 * 22050, max_text_length=30)


def read_rows(folder: Path, rows: list[tuple[str, str]], language: str = "en") -> list[Sample]:
    """Return the samples of a manifest with these recordings and texts."""
    manifest = folder / "list.jsonl"
    manifest.write_text("".join(json.dumps({"audio_file": name, "text": text}) + "\n" for name, text in rows))
    return read_manifest(str(manifest), language)


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["manifest_audio_file"] for entry in entries]


@pytest.fixture
def corpus(tmp_path: Path, write_voice) -> list[Sample]:
    """Three usable samples among unusable ones of every kind."""
    folder = tmp_path / "Мои записи ሰላም"
    folder.mkdir()
    voice = np.sin(np.arange(22050) / 20)
    for number, suffix in enumerate([".wav", ".flac", ".ogg"]):
        write_voice(folder / f"good {number}{suffix}", seed=number)
    for number, name in enumerate(["blank", "letters", "emoji", "long text", "number", "quotes", "mark"]):
        write_voice(folder / f"{name}.wav", seed=10 + number)
    write_voice(folder / "short.wav", seconds=0.49)
    write_voice(folder / "long.wav", seconds=3.01)
    soundfile.write(folder / "none.wav", np.zeros(0), 22050)
    soundfile.write(folder / "zeros.wav", np.zeros(22050), 22050)
    soundfile.write(folder / "constant.wav", np.full(22050, 0.3), 22050)
    soundfile.write(folder / "opposite.wav", np.stack([0.5 * voice, -0.5 * voice], axis=1), 22050)
    soundfile.write(folder / "nan.wav", np.where(np.arange(22050) == 9000, np.nan, voice), 22050, subtype="FLOAT")
    soundfile.write(folder / "infinite.wav", np.where(np.arange(22050) == 9, np.inf, voice), 22050, subtype="FLOAT")
    (folder / "text.wav").write_text("not a recording")
    (folder / "empty.flac").write_bytes(b"")
    complete = write_voice(folder / "complete.flac", seconds=2).read_bytes()
    (folder / "half.flac").write_bytes(complete[: len(complete) // 2])
    (folder / "folder.wav").mkdir()
    texts = {
        "blank.wav": "  ",
        "letters.wav": "the ሰላም the",
        "emoji.wav": "well 😀 and \u200b",
        "long text.wav": "a b " * 20,
        "number.wav": "1" * 400,
        "quotes.wav": '""',
        "mark.wav": "a [STOP] mark",
    }
    files = [
        "good 0.wav", *texts, "short.wav", "long.wav", "none.wav", "good 1.flac", "zeros.wav", "constant.wav",
        "opposite.wav", "nan.wav", "infinite.wav", "text.wav", "empty.flac", "half.flac", "folder.wav", "nowhere.wav",
        "good 2.ogg",
    ]  # fmt: skip
    return read_rows(
        folder, [(name, texts.get(name, f"The text of {name.split('.')[0]}".strip(" 012"))) for name in files]
    )


def test_unusable_samples_are_reported_and_all_others_are_kept(corpus, tokenizer) -> None:
    # The usable samples had the same text, which would be a warning.
    for index, text in ((0, "One."), (11, "Two."), (-1, "Three?")):
        corpus[index] = replace(corpus[index], text=text)
    before = list(corpus)
    report = check_samples(corpus, tokenizer, LIMITS, progress=False)

    assert corpus == before
    assert {kind: names(entries) for kind, entries in report.problems.items()} == {
        "missing": ["folder.wav", "nowhere.wav"],
        "unreadable": ["text.wav", "empty.flac", "half.flac"],
        "not_finite": ["nan.wav", "infinite.wav"],
        "silent": ["zeros.wav", "constant.wav", "opposite.wav"],
        "too_short": ["short.wav", "none.wav"],
        "too_long_audio": ["long.wav"],
        "empty_text": ["blank.wav", "quotes.wav"],
        "unknown_tokens": ["letters.wav", "emoji.wav", "mark.wav"],
        "too_long_text": ["long text.wav", "number.wav"],
    }
    assert [sample.manifest_audio_file for sample in report.usable] == ["good 0.wav", "good 1.flac", "good 2.ogg"]
    assert [sample.duration_s for sample in report.usable] == [1.0, 1.0, 1.0]
    # The tokens are [en], o, n, e and the full stop.
    assert report.usable[0].text_tokens == 5
    added = {"duration_s": 0.0, "audio_digest": None, "text_tokens": None}
    assert replace(report.usable[1], **added) == corpus[11]
    assert report.total == 23
    assert report.unusable_share == 20 / 23
    assert report.hours == {"en": 3 / 3600}


def test_entries_have_a_location_and_a_reason(corpus, tokenizer) -> None:
    report = check_samples(corpus, tokenizer, LIMITS, progress=False)
    by_name = {
        name: entry for entries in report.problems.values() for entry, name in zip(entries, names(entries), strict=True)
    }
    assert by_name["letters.wav"]["line"] == 3
    assert by_name["letters.wav"]["manifest"] == corpus[0].manifest
    assert by_name["letters.wav"]["characters"] == ["'ላ' (U+120B)", "'ም' (U+121D)", "'ሰ' (U+1230)"]
    assert by_name["emoji.wav"]["characters"] == ["'\\u200b' (U+200B)", "'😀' (U+1F600)"]
    assert by_name["long text.wav"]["detail"] == "80 tokens; the model accepts at most 30"
    assert by_name["long.wav"]["detail"] == "3.01 s; the model accepts at most 3.00 s"
    assert by_name["short.wav"]["detail"] == "0.490 s"
    assert by_name["number.wav"]["detail"].endswith("tokens; the model accepts at most 30"), "not read digit by digit"
    assert by_name["quotes.wav"]["detail"] == "nothing is left of '\"\"' after cleaning"
    assert str(Path(corpus[0].root_path) / "nowhere.wav") in by_name["nowhere.wav"]["detail"]
    assert "truncated" in by_name["half.flac"]["detail"]
    summary = report.summary(names=1)
    assert summary == report.summary(1)
    assert summary.splitlines()[0] == "3 of 23 samples are usable (en 0.00 h)."
    assert "Unusable: missing: 2 (no such file)" in summary
    assert "and 1 more" in summary
    assert "'ም' (U+121D): 1" in summary
    assert "nowhere.wav" in str(report)


def test_report_as_json(corpus, tokenizer) -> None:
    report = json.loads(json.dumps(check_samples(corpus, tokenizer, LIMITS, progress=False).to_dict()))
    assert (report["total"], report["usable"], report["unusable_share"]) == (23, 3, 20 / 23)
    assert (report["hours"], report["hours_per_language"]) == (3 / 3600, {"en": 3 / 3600})
    assert (report["problems"]["missing"], report["problems"]["silent"]) == (2, 3)
    assert names(report["problem_entries"]["too_long_audio"]) == ["long.wav"]


def test_a_sample_can_have_several_problems(tmp_path: Path, tokenizer) -> None:
    report = check_samples(read_rows(tmp_path, [("nowhere.wav", "")]), tokenizer, LIMITS, progress=False)
    assert list(report.problems) == ["missing", "empty_text"]
    assert (report.usable, report.unusable_share, report.hours) == ([], 1.0, {})
    assert "0 of 1 samples are usable (0 h)." in str(report)


def test_limits_are_inclusive_after_resampling(tmp_path: Path, write_voice, tokenizer) -> None:
    # At 44100 Hz, 22050 samples are half a second and 132300 are three.
    for frames in (22048, 22049, 132300, 132301):
        write_voice(tmp_path / f"{frames}.wav", seconds=(frames + 0.5) / 44100, rate=44100)
    samples = read_rows(tmp_path, [(f"{frames}.wav", "a" * 29) for frames in (22048, 22049, 132300, 132301)])
    report = check_samples(samples, tokenizer, LIMITS, progress=False)
    assert {kind: names(entries) for kind, entries in report.problems.items()} == {
        "too_short": ["22048.wav"],
        "too_long_audio": ["132301.wav"],
    }
    assert [sample.text_tokens for sample in report.usable] == [30, 30]


def test_warnings(tmp_path: Path, write_voice, tokenizer) -> None:
    write_voice(tmp_path / "good.wav")
    (tmp_path / "copy.wav").write_bytes((tmp_path / "good.wav").read_bytes())
    write_voice(tmp_path / "fast.wav", rate=48000, seed=1)
    write_voice(tmp_path / "stereo.wav", channels=2, seed=2)
    voice = np.sin(np.arange(22050) / 50)
    soundfile.write(tmp_path / "clipped.wav", np.clip(3 * voice, -1, 1), 22050)
    soundfile.write(tmp_path / "over.wav", 1.2 * voice, 22050, subtype="FLOAT")
    # Decoders of lossy formats overshoot in a few samples.
    voice[[100, 9000]] = 1.02
    soundfile.write(tmp_path / "loud.wav", voice, 22050, subtype="FLOAT")
    rows = ["good", "copy", "fast", "stereo", "clipped", "over", "loud"]
    texts = {name: f"text of {name}" for name in rows} | {"stereo": "text of fast "}
    report = check_samples(
        read_rows(tmp_path, [(f"{name}.wav", texts[name]) for name in rows] + [("nowhere.wav", "text of good")]),
        tokenizer,
        LIMITS,
        progress=False,
    )
    assert {kind: names(entries) for kind, entries in report.warnings.items()} == {
        "clipped": ["clipped.wav", "over.wav"],
        "sample_rate": ["fast.wav"],
        "mixed_sample_rates": ["good.wav", "fast.wav"],
        "channels": ["stereo.wav"],
        "duplicate_audio": ["copy.wav"],
        "duplicate_text": ["stereo.wav"],
    }
    assert [entry["detail"] for entry in report.warnings["mixed_sample_rates"]] == [
        "the first recording at 22,050 Hz (6 in total)",
        "the first recording at 48,000 Hz (1 in total)",
    ]
    assert report.warnings["duplicate_audio"][0]["detail"] == "the same as good.wav"
    assert len(report.usable) == 7
    assert "Warning: clipped: 2" in str(report)


def test_warnings_about_texts_and_recordings_that_do_not_match(tmp_path: Path, write_voice, tokenizer) -> None:
    for number in range(3):
        write_voice(tmp_path / f"{number}.wav", seed=number)
    click = np.zeros(44100)
    click[20000:20010] = 0.9
    # A constant offset, as some microphones have, is not sound.
    soundfile.write(tmp_path / "click.wav", click + 0.05, 22050)
    room = np.random.default_rng(0).normal(0, 0.001, 44100)
    room[20000] = 0.6
    soundfile.write(tmp_path / "room.wav", room, 22050)
    soundfile.write(tmp_path / "word.wav", np.concatenate([np.sin(np.arange(9000) / 20), np.zeros(50000)]), 22050)
    rows = [
        ("0.wav", "a text"),
        ("1.wav", "far too many words to say them in a second"),
        ("2.wav", "see www.example.com"),
    ]
    report = check_samples(
        read_rows(
            tmp_path,
            [
                *rows,
                ("click.wav", "and other words"),
                ("room.wav", "still other words"),
                ("word.wav", "well well well"),
            ],
        ),
        tokenizer,
        DataLimits(22050, 3 * 22050, 60),
        progress=False,
    )
    assert {kind: names(entries) for kind, entries in report.warnings.items()} == {
        "speaking_rate": ["1.wav"],
        "mostly_silence": ["click.wav", "room.wav", "word.wav"],
        "markup": ["2.wav"],
    }
    assert report.warnings["markup"][0]["detail"] == "'www.example.com' in 'see www.example.com'"
    assert report.warnings["mostly_silence"][0]["detail"].startswith("2% of the recording is within 26 dB")


def test_converted_recordings_are_reported_last_without_names(tmp_path: Path, write_voice, tokenizer) -> None:
    write_voice(tmp_path / "stereo.wav", channels=2)
    write_voice(tmp_path / "fast.wav", rate=48000, seed=1)
    report = check_samples(
        read_rows(tmp_path, [("stereo.wav", "some words"), ("fast.wav", "other words &amp; more")]),
        tokenizer,
        LIMITS,
        progress=False,
    )
    lines = report.summary().splitlines()
    assert lines[1] == "Warning: markup: 1 (markup tags, entities, or web or email addresses in the text)"
    assert lines[3:] == [
        "Converted when read: sample_rate: 1 (a sample rate other than the model's, so the audio is resampled), "
        "mixed_sample_rates: 2 (recordings with different sample rates), "
        "channels: 1 (more than one channel, so the channels are averaged to mono)."
    ]
    assert names(report.to_dict()["warning_entries"]["channels"]) == ["stereo.wav"]


@pytest.mark.parametrize(
    ("scale", "offset", "subtype", "bits", "fix"),
    [
        (127, 0, "FLOAT", 8, "Divide the samples by 128,"),
        (127.5, 127.5, "FLOAT", 8, "Subtract 128 from the samples and divide them by 128,"),
        (90, 128, "FLOAT", 8, "Subtract 128 from the samples and divide them by 128,"),
        (16000, 0, "FLOAT", 16, "Divide the samples by 32768,"),
        (32767, 0, "DOUBLE", 16, "Divide the samples by 32768,"),
        (32767, 32768, "FLOAT", 16, "Subtract 32768 from the samples and divide them by 32768,"),
        (8e6, 0, "FLOAT", 24, "Divide the samples by 8388608,"),
        (2e9, 0, "FLOAT", 32, "Divide the samples by 2147483648,"),
    ],
)
def test_integers_as_floats_are_unusable(
    tmp_path: Path, tokenizer, scale: float, offset: float, subtype: str, bits: int, fix: str
) -> None:
    soundfile.write(tmp_path / "a.wav", offset + scale * np.sin(np.arange(33075) / 20), 22050, subtype=subtype)
    soundfile.write(tmp_path / "loud.wav", 2 * np.sin(np.arange(33075) / 20), 22050, subtype="FLOAT")
    samples = read_rows(tmp_path, [("a.wav", "some words"), ("loud.wav", "other words")])
    report = check_samples(samples, tokenizer, LIMITS, progress=False)
    assert {kind: names(entries) for kind, entries in report.problems.items()} == {"out_of_range": ["a.wav"]}
    detail = report.problems["out_of_range"][0]["detail"]
    assert f"{bits}-bit integers written as floating point. {fix}" in detail
    assert names(report.warnings["clipped"]) == ["loud.wav"]
    with pytest.raises(DataError, match=r"a\.wav has sample values up to .*, but full scale is 1"):
        load_audio(tmp_path / "a.wav", 22050)


def test_a_rate_that_cannot_be_resampled_is_unreadable(tmp_path: Path, write_voice, tokenizer) -> None:
    write_voice(tmp_path / "odd.wav", rate=44101)
    report = check_samples(read_rows(tmp_path, [("odd.wav", "some words")]), tokenizer, LIMITS, progress=False)
    assert "44,101 Hz and cannot be resampled to 22,050 Hz" in report.problems["unreadable"][0]["detail"]


def test_unusual_real_recordings_and_texts(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = VoiceBpeTokenizer(str(shared_data / "xtts_vocab.json"))
    wild = shared_data / "wild"
    rows = ["vbr-without-xing.mp3", "cbr-without-info.mp3", "cut.rf64.wav", "cut.aiff", "float-as-int16.wav", "gsm.wav"]
    rows += ["recorder-died.wav", "no-fmt.wav", "one-click.wav", "tiny.wav"]
    texts = "One of these is the text of it, and it is long enough."
    samples = read_rows(tmp_path, [(str(wild / name), texts if "mp3" in name else texts[:25]) for name in rows])
    report = check_samples(samples, tokenizer, DataLimits(22050, 255995, 200), progress=False)
    problems = {kind: [Path(name).name for name in names(entries)] for kind, entries in report.problems.items()}
    assert problems == {
        "unreadable": ["cut.rf64.wav", "cut.aiff", "recorder-died.wav", "no-fmt.wav"],
        "out_of_range": ["float-as-int16.wav"],
        "too_short": ["tiny.wav"],
    }
    usable = {Path(sample.audio_file).name: sample.duration_s for sample in report.usable}
    assert usable == {
        "vbr-without-xing.mp3": 107136 / 22050,
        "cbr-without-info.mp3": 107136 / 22050,
        "gsm.wav": 1.76,
        "one-click.wav": 2.0,
    }
    assert [Path(name).name for name in names(report.warnings["mostly_silence"])] == ["one-click.wav"]

    samples = read_manifest(str(wild / "too-much-text.csv"), "en")
    report = check_samples(samples, tokenizer, DataLimits(22050, 255995, 200), progress=False)
    assert names(report.warnings["speaking_rate"]) == ["wavs/a1.wav"]


def test_repeated_recording_is_read_once(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    reads = count_reads(monkeypatch)
    write_voice(tmp_path / "a.wav")
    report = check_samples(read_rows(tmp_path, [("a.wav", "one"), ("a.wav", "two")]), tokenizer, LIMITS, progress=False)
    assert reads == ["a.wav"]
    assert names(report.warnings["duplicate_audio"]) == ["a.wav"]
    detail = "the same as a.wav, but the texts differ: 'one' and 'two'"
    assert report.warnings["duplicate_audio"][0]["detail"] == detail
    assert len(report.usable) == 2


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    read = recordings.measure_recording

    def counted(path: str):
        reads.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(recordings, "measure_recording", counted)
    return reads


def test_failing_cleaner_makes_a_text_unusable(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    """The text has no number, because numbers that fail are read digit by digit."""
    monkeypatch.setattr(type(tokenizer), "preprocess_text", lambda self, text, language: {"a": "a"}[text])
    write_voice(tmp_path / "a.wav")
    report = check_samples(read_rows(tmp_path, [("a.wav", "a"), ("a.wav", "b")]), tokenizer, LIMITS, progress=False)
    assert [entry["detail"] for entry in report.problems["text_error"]] == ["KeyError for 'b': 'b'"]


def test_cached_recordings_are_not_read_again(tmp_path: Path, write_voice, tokenizer, monkeypatch, caplog) -> None:
    for number in range(4):
        write_voice(tmp_path / f"{number}.wav", seed=number)
    (tmp_path / "bad.wav").write_text("not a recording")
    samples = read_rows(tmp_path, [(f"{name}.wav", f"text {'abcde'[i]}") for i, name in enumerate([0, 1, 2, 3, "bad"])])
    cache = tmp_path / "cache folder" / "recordings"
    reads = count_reads(monkeypatch)

    def run(some=samples, limits=LIMITS) -> dict[str, Any]:
        reads.clear()
        return check_samples(some, tokenizer, limits, cache=cache, progress=False).to_dict()

    first = run(samples[:2])
    assert sorted(reads) == ["0.wav", "1.wav"]
    complete = run()
    assert sorted(reads) == ["2.wav", "3.wav", "bad.wav"]
    # Unreadable files are tried again, because their disk may have been unmounted.
    assert run() == complete
    assert reads == ["bad.wav"]
    assert run(samples[:2]) == first
    assert reads == []
    # The measurements do not depend on the limits and texts.
    assert run(limits=DataLimits(44100, 1000, 2))["problems"] == {
        "unreadable": 1,
        "too_long_audio": 4,
        "too_long_text": 5,
    }
    assert reads == ["bad.wav"]
    # The size of one file and the modification time of another change.
    write_voice(tmp_path / "1.wav", seconds=1.5, seed=1)
    status = (tmp_path / "2.wav").stat()
    os.utime(tmp_path / "2.wav", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert run()["hours"] == pytest.approx(4.5 / 3600, abs=0)
    assert sorted(reads) == ["1.wav", "2.wav", "bad.wav"]
    assert caplog.messages == []
    assert sorted(file.name for file in cache.parent.iterdir()) == [".recordings.en.texts", "recordings"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_cache_is_reported_and_replaced(
    tmp_path: Path, write_voice, tokenizer, monkeypatch, caplog, damage
) -> None:
    for number in range(3):
        write_voice(tmp_path / f"{number}.wav", seed=number)
    samples = read_rows(tmp_path, [(f"{number}.wav", f"text {'abc'[number]}") for number in range(3)])
    cache = tmp_path / "cache"
    expected = check_samples(samples, tokenizer, LIMITS, cache=cache, progress=False)
    content = cache.read_bytes()
    cache.write_bytes(
        {
            "cut": content[: content.rindex(b"{")],
            "flipped": content.replace(b'"frames": 22050', b'"frames": 22051', 1),
            "empty": b"",
        }[damage]
    )
    reads = count_reads(monkeypatch)
    assert check_samples(samples, tokenizer, LIMITS, cache=cache, progress=False) == expected
    assert len(reads) == 3
    assert "is damaged or was written by a different version" in caplog.text
    assert cache.read_bytes() == content


def test_unreadable_cache_is_an_error_and_unwritable_cache_is_not(
    tmp_path: Path, write_voice, tokenizer, caplog
) -> None:
    write_voice(tmp_path / "a.wav")
    samples = read_rows(tmp_path, [("a.wav", "one")])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be read .*Choose a different cache file"):
        check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "file" / "cache", progress=False)
    with pytest.raises(DataError, match=r"cannot be read .*Choose a different cache file"):
        check_samples(samples, tokenizer, LIMITS, cache=tmp_path, progress=False)
    (tmp_path / "dangling").symlink_to("/proc/no such folder/cache")
    assert len(check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "dangling", progress=False).usable) == 1


def test_interrupted_check_caches_its_results(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    count = 40
    for number in range(count):
        write_voice(tmp_path / f"{number}.wav", seconds=0.5, seed=number)
    samples = read_rows(tmp_path, [(f"{number}.wav", "text") for number in range(count)])
    interrupted = threading.Event()
    reads = count_reads(monkeypatch)
    counted = recordings.measure_recording

    def interrupt_at_the_tenth(path: str):
        # SIGINT reaches the main thread while the other threads read.
        if Path(path).name == "10.wav" and not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        if interrupted.is_set():
            # This gives a busy machine time to deliver the signal before all files are read.
            time.sleep(0.2)
        return counted(path)

    monkeypatch.setattr(recordings, "measure_recording", interrupt_at_the_tenth)
    # The background jobs of a shell ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "cache", progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    read_before = len(reads)
    assert 5 <= read_before < count
    reads.clear()
    assert len(check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "cache", progress=False).usable) == count
    assert len(reads) == count - read_before


def test_language_without_a_tag_is_an_error(tmp_path: Path, write_voice, tokenizer) -> None:
    write_voice(tmp_path / "a.wav")
    with pytest.raises(LanguageError, match="fr"):
        check_samples(read_rows(tmp_path, [("a.wav", "un")] * 3, "fr"), tokenizer, LIMITS, progress=False)


def test_the_stop_token_in_a_text_is_unknown(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    # coqui's cleaners lowercase the text, so that it never matches the token. Not every cleaner does.
    monkeypatch.setattr(tokenizer, "preprocess_text", lambda text, language: text)
    write_voice(tmp_path / "a.wav")
    report = check_samples(read_rows(tmp_path, [("a.wav", "stop [STOP]")]), tokenizer, LIMITS, progress=False)
    (entry,) = report.problems["unknown_tokens"]
    assert entry["detail"] == "'[STOP]' in 'stop [STOP]'"


def test_checking_no_samples_is_an_error(tokenizer) -> None:
    with pytest.raises(DataError, match="no samples to check"):
        check_samples([], tokenizer, LIMITS)


def test_progress_with_and_without_a_terminal(tmp_path: Path, write_voice, tokenizer, monkeypatch, capsys) -> None:
    for number in range(3):
        write_voice(tmp_path / f"{number}.wav", seed=number)
    samples = read_rows(tmp_path, [(f"{number}.wav", "text") for number in range(3)])
    check_samples(samples, tokenizer, LIMITS)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 0.0)
    check_samples(samples, tokenizer, LIMITS)
    out, lines = capsys.readouterr()
    assert out == ""
    assert lines.splitlines()[0].startswith("1 of 3 recordings, ")
    assert lines.splitlines()[-1].startswith("3 of 3 texts, ")
    assert lines.splitlines()[-1].endswith(" 0 s left")
    check_samples(samples, tokenizer, LIMITS, progress=False)
    assert capsys.readouterr() == ("", "")
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    check_samples(samples, tokenizer, LIMITS)
    assert "recordings" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert "/s" in screen.getvalue()


def test_human_speech_is_usable(shared_data: Path) -> None:
    samples = read_manifest(str(shared_data / "ljspeech" / "metadata.csv"), "en")
    tokenizer = VoiceBpeTokenizer(str(shared_data / "xtts_vocab.json"))
    report = check_samples(samples, tokenizer, DataLimits(22050, 255995, 200), progress=False)
    assert (len(report.usable), report.problems, report.warnings) == (8, {}, {})
    assert report.hours == {"en": sum(soundfile.info(s.audio_file).frames / 22050 for s in samples) / 3600}
    limited = check_samples(samples, tokenizer, DataLimits(22050, 255995, 40), progress=False)
    assert [s.text_tokens <= 40 for s in report.usable].count(False) == len(limited.problems["too_long_text"]) > 0


def test_a_killed_check_keeps_all_but_the_last_results(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    for number in range(5):
        write_voice(tmp_path / f"{number}.wav", seconds=0.5, seed=number)
    samples = read_rows(tmp_path, [(f"{number}.wav", "text") for number in range(5)])
    monkeypatch.setattr(recordings, "_CHUNK_FILES", 2)
    # As if the process was killed before the journal moved to the cache file, and while it wrote to the journal.
    monkeypatch.setattr(recordings._Cache, "join", lambda cache: None)
    expected = check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "cache", progress=False)
    journal = tmp_path / ".cache.00000.new"
    assert journal.read_bytes().count(b"\n") == 5
    journal.write_bytes(journal.read_bytes()[:-10])
    monkeypatch.undo()
    reads = count_reads(monkeypatch)
    assert check_samples(samples, tokenizer, LIMITS, cache=tmp_path / "cache", progress=False) == expected
    assert reads == ["4.wav"]
    assert not journal.exists()


def test_two_processes_divide_the_recordings(tmp_path: Path, write_voice, tokenizer, monkeypatch) -> None:
    """Threads stand in for the processes. Recordings that cannot be read are reported by both."""
    for number in range(6):
        write_voice(tmp_path / f"{number}.wav", seconds=0.5, seed=number)
    (tmp_path / "3.wav").write_bytes(b"no audio")
    samples = read_rows(tmp_path, [(f"{number}.wav", "text") for number in range(7)])
    expected = check_samples(samples, tokenizer, LIMITS, progress=False)
    assert set(expected.problems) == {"unreadable", "missing"}
    reads, cache = count_reads(monkeypatch), tmp_path / "cache"

    def check(processes):
        return check_samples(samples, tokenizer, LIMITS, cache=cache, progress=False, processes=processes)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(check, two_processes())) == [expected, expected]
    assert sorted(reads) == [f"{number}.wav" for number in range(6)]
    assert sorted(file.name for file in tmp_path.glob("*cache*")) == [".cache.en.texts", "cache"]
    with pytest.raises(ConfigError, match="Pass a file with --cache"):
        check_samples(samples, tokenizer, LIMITS, processes=two_processes()[0])


def test_other_files_are_not_overwritten_by_the_cache(tmp_path: Path, write_voice, tokenizer) -> None:
    write_voice(tmp_path / "a.wav")
    samples = read_rows(tmp_path, [("a.wav", "text")])
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("audio_file|text\na.wav|text\n", encoding="utf-8")
    with pytest.raises(DataError, match="is not a recordings cache"):
        check_samples(samples, tokenizer, LIMITS, cache=manifest, progress=False)
    assert manifest.read_text(encoding="utf-8") == "audio_file|text\na.wav|text\n"
