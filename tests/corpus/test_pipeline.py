"""From recordings to a data set: what comes out, after a kill at any stage, with edits, and by several processes."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile
from filelock import FileLock
from tones import OTHER_WORDS, ToneAligner, find_tones, make_sentences, recognise, write_recording

from xtts_extend.corpus import pipeline, recording_clips
from xtts_extend.corpus.aligners import PlugAligner
from xtts_extend.corpus.clip import Clip, Reason, read_clips
from xtts_extend.corpus.edits import Edit, append_edit
from xtts_extend.corpus.pipeline import Summary, make_dataset
from xtts_extend.corpus.recording_clips import Settings
from xtts_extend.corpus.sources import find_sources
from xtts_extend.corpus.stages import Stages
from xtts_extend.data.manifest import read_manifest
from xtts_extend.errors import ConfigError, DataError, MachineError


@pytest.fixture(autouse=True)
def hear_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find tones instead of speech."""
    monkeypatch.setattr(recording_clips, "find_speech", find_tones)


def make(
    paths: Sequence[Path], output: Path, min_score: float = 0.5, text: Path | None = None, speaker: str | None = None
) -> Summary:
    """Make a data set of recordings of tones."""
    sources = find_sources(paths, "en", text, speaker)
    return make_dataset(sources, output, Settings("en", ToneAligner(), min_score), progress=False)


def accepted(output: Path) -> list[Clip]:
    """Return the clips that are in a manifest or next to the validation set, in order."""
    return [clip for clip in read_clips(output / "clips.jsonl") if clip.rejected in (None, Reason.BORDER)]


def set_aside(output: Path) -> list[tuple[str, str]]:
    """Return the reasons and texts in `rejected.csv`."""
    table = pd.read_csv(output / "rejected.csv", sep="|", keep_default_na=False, quoting=0)
    return list(zip(table["reason"], table["text"], strict=True))


def content(output: Path) -> dict[str, str]:
    """Return a digest of each file of a data set, without its work folder."""
    files = [file for file in output.rglob("*") if file.is_file() and ".work" not in file.parts]
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_each_sentence_becomes_a_clip_with_its_text(tmp_path: Path) -> None:
    sentences = make_sentences(8)
    times = write_recording(tmp_path / "in" / "talk.flac", sentences)
    summary = make([tmp_path / "in"], tmp_path / "out")
    clips = accepted(tmp_path / "out")
    assert [clip.text for clip in clips] == sentences
    for clip, (start_s, end_s) in zip(clips, times, strict=True):
        assert start_s - 0.25 < clip.start_s < start_s
        assert end_s - 0.05 < clip.end_s < end_s + 0.35
        assert clip.scores.alignment == pytest.approx(1.0, abs=0.01)
    assert summary.recordings == 1
    assert summary.train + summary.val == 8
    assert set_aside(tmp_path / "out") == []


def test_manifests_and_wav_files_are_what_training_reads(tmp_path: Path) -> None:
    sentences = make_sentences(4)
    times = write_recording(tmp_path / "in" / "Ann" / "talk.flac", sentences)
    make([tmp_path / "in"], tmp_path / "out")
    samples = read_manifest(str(tmp_path / "out" / "train.csv"), "en")
    assert [sample.text for sample in samples] == sentences
    assert {sample.speaker_name for sample in samples} == {"Ann"}
    audio, rate = soundfile.read(samples[1].audio_file)
    assert rate == 16_000
    assert len(audio) / rate == pytest.approx(times[1][1] - times[1][0] + 0.4, abs=0.1)
    # The tones have their place, and the level that all speech gets.
    spoken = audio[round(0.2 * rate) : round(0.2 * rate) + 960]
    peak_hz = np.abs(np.fft.rfft(spoken)).argmax() * rate / len(spoken)
    assert peak_hz == pytest.approx(400 + 200 * (ord(sentences[1][0].lower()) - ord("a")), abs=20)


def test_wrong_text_is_set_aside_and_the_rest_is_right(tmp_path: Path) -> None:
    spoken = make_sentences(14)
    added, replaced = make_sentences(2, seed=9)
    text = [*spoken[:3], *spoken[4:6], added, *spoken[6:9], replaced, *spoken[10:]]
    write_recording(tmp_path / "in" / "talk.flac", spoken, text)
    make([tmp_path / "in"], tmp_path / "out")
    assert [clip.text for clip in accepted(tmp_path / "out")] == [*spoken[:3], *spoken[4:9], *spoken[10:]]
    found = set_aside(tmp_path / "out")
    assert ("text_without_speech", added) in found
    assert ("text_without_speech", replaced) in found
    assert [reason for reason, _ in found].count("speech_without_text") == 2
    assert len(found) == 4


def test_swapped_sentences_are_named_as_such(tmp_path: Path) -> None:
    spoken = make_sentences(10)
    write_recording(tmp_path / "in" / "talk.flac", spoken, [*spoken[:4], spoken[5], spoken[4], *spoken[6:]])
    make([tmp_path / "in"], tmp_path / "out")
    assert [reason for reason, _ in set_aside(tmp_path / "out")] == ["speech_without_text", "crossing"] or [
        reason for reason, _ in set_aside(tmp_path / "out")
    ] == ["crossing", "speech_without_text"]


def test_a_book_is_divided_among_its_recordings(tmp_path: Path) -> None:
    sentences = make_sentences(20)
    for number in range(3):
        write_recording(tmp_path / "in" / f"{number}.flac", sentences[6 * number : 6 * number + 6])
        (tmp_path / "in" / f"{number}.txt").unlink()
    (tmp_path / "in" / "book.txt").write_text("\n".join(sentences), encoding="utf-8")
    make([tmp_path / "in"], tmp_path / "out")
    assert [clip.text for clip in accepted(tmp_path / "out")] == sentences[:18]
    assert set_aside(tmp_path / "out") == [("text_without_speech", " ".join(sentences[18:]))]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the process at the given one of the places where it writes: before a stage's file, a WAV file or a table."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed

    run, atomic_path = Stages.run, pipeline.write_wavs.__globals__["atomic_path"]

    def interrupted_run(self: Stages, name: str, inputs: object, compute: object) -> object:
        def compute_and_stop() -> object:
            result = compute()  # type: ignore[operator]
            step()
            return result

        return run(self, name, inputs, compute_and_stop)

    def interrupted_path(path: Path) -> object:
        step()
        return atomic_path(path)

    monkeypatch.setattr(Stages, "run", interrupted_run)
    monkeypatch.setitem(pipeline.write_wavs.__globals__, "atomic_path", interrupted_path)


def test_a_kill_at_each_stage_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(2))
    output = tmp_path / "out"
    make([tmp_path / "in"], output)
    expected = content(output)
    assert sorted(Path(name).suffix for name in expected) == [".csv"] * 2 + [".html", ".jsonl"] + [".wav"] * 2
    for number in range(1, 20):
        shutil.rmtree(output)
        with monkeypatch.context() as patch:
            kill_at(number, patch)
            try:
                make([tmp_path / "in"], output)
            except Killed:
                pass
            else:
                break
        make([tmp_path / "in"], output)
        assert content(output) == expected
    # Five stages, two clips and three tables.
    assert number == 11


def test_finished_stages_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(3))
    make([tmp_path / "in"], tmp_path / "out")
    monkeypatch.setattr(recording_clips, "convert_recording", None)
    monkeypatch.setattr(recording_clips, "find_speech", None)
    monkeypatch.setattr(recording_clips, "align_chunk", None)
    monkeypatch.setattr(ToneAligner, "log_probs", None)
    assert make([tmp_path / "in"], tmp_path / "out").train == 3


def test_another_text_is_aligned_again(tmp_path: Path) -> None:
    sentences = make_sentences(6)
    write_recording(tmp_path / "in" / "talk.flac", sentences)
    make([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "talk.txt").write_text(" ".join(sentences[:4]), encoding="utf-8")
    make([tmp_path / "in"], tmp_path / "out")
    assert [clip.text for clip in accepted(tmp_path / "out")] == sentences[:4]
    assert {reason for reason, _ in set_aside(tmp_path / "out")} == {"speech_without_text"}


def test_adding_a_recording_moves_no_clip(tmp_path: Path) -> None:
    for number in range(2):
        write_recording(tmp_path / "in" / f"{number}.flac", make_sentences(4, seed=number))
    make([tmp_path / "in"], tmp_path / "out")
    before = accepted(tmp_path / "out")
    write_recording(tmp_path / "in" / "2.flac", make_sentences(4, seed=2))
    make([tmp_path / "in"], tmp_path / "out")
    assert [clip for clip in accepted(tmp_path / "out") if not clip.id.startswith("2-")] == before


def test_edits_are_applied_by_each_run_and_never_overwritten(tmp_path: Path) -> None:
    sentences = make_sentences(4)
    write_recording(tmp_path / "in" / "talk.flac", sentences)
    output = tmp_path / "out"
    make([tmp_path / "in"], output)
    first, second, third, _ = accepted(output)
    append_edit(output / "edits.jsonl", Edit(first.id, text="Corrected by hand."))
    append_edit(output / "edits.jsonl", Edit(second.id, start=second.start_s + 0.5))
    append_edit(output / "edits.jsonl", Edit(third.id, drop=True))
    edits = (output / "edits.jsonl").read_bytes()
    for _ in range(2):
        make([tmp_path / "in"], output)
        clips = {clip.id: clip for clip in read_clips(output / "clips.jsonl")}
        assert clips[first.id].text == "Corrected by hand."
        assert clips[second.id].start_s == second.start_s + 0.5
        assert soundfile.info(output / clips[second.id].audio_file).duration == pytest.approx(
            second.duration_s - 0.5, abs=0.01
        )
        assert clips[third.id].rejected is Reason.DROPPED
        assert (output / "edits.jsonl").read_bytes() == edits


def test_recordings_without_use_are_named_and_the_rest_is_made(tmp_path: Path) -> None:
    sentences = make_sentences(12)
    write_recording(tmp_path / "in" / "good.flac", sentences[:6])
    write_recording(tmp_path / "in" / "other film.flac", sentences[6:], make_sentences(6, words=OTHER_WORDS))
    soundfile.write(tmp_path / "in" / "silence.flac", np.zeros(RATE_S := 160_000), 16_000)
    soundfile.write(tmp_path / "in" / "hum.flac", 0.001 * np.random.default_rng(0).standard_normal(RATE_S), 16_000)
    (tmp_path / "in" / "broken.mp3").write_bytes(b"not audio")
    write_recording(tmp_path / "in" / "no text.flac", sentences[:1])
    (tmp_path / "in" / "no text.txt").unlink()
    summary = make([tmp_path / "in"], tmp_path / "out")
    assert summary.recordings == 1
    assert summary.set_aside == {"unusable_recording": 5}
    table = pd.read_csv(tmp_path / "out" / "rejected.csv", sep="|", keep_default_na=False)
    details = {Path(name).name: detail for name, detail in zip(table["recording"], table["detail"], strict=True)}
    assert "probably" in details["other film.flac"]
    assert "is silent" in details["silence.flac"]
    assert "contains no speech" in details["hum.flac"]
    assert "has no text" in details["no text.flac"]
    assert details["broken.mp3"]


def test_if_no_recording_can_be_used_nothing_is_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.flac", np.zeros(160_000), 16_000)
    (tmp_path / "silence.txt").write_text("Nothing.", encoding="utf-8")
    with pytest.raises(DataError, match=r"None of the recordings can be used\.\n.*is silent"):
        make([tmp_path / "silence.flac"], tmp_path / "out")
    assert not (tmp_path / "out" / "train.csv").exists()


def test_the_same_recordings_by_two_processes(tmp_path: Path) -> None:
    class Rank:
        """A rank of two, whose `wait` waits for the other."""

        size = 2

        def __init__(self, rank: int, barrier: threading.Barrier) -> None:
            self.rank, self.is_main, self._barrier = rank, rank == 0, barrier

        def wait(self) -> None:
            self._barrier.wait()

    for number in range(3):
        write_recording(tmp_path / "in" / f"{number}.flac", make_sentences(3, seed=number))
    make([tmp_path / "in"], tmp_path / "one")
    barrier = threading.Barrier(2)
    sources = find_sources([tmp_path / "in"], "en")
    settings = Settings("en", ToneAligner(), 0.5)
    two = tmp_path / "two"
    arguments = (sources, two, settings, Rank(1, barrier))
    other = threading.Thread(target=make_dataset, args=arguments, kwargs={"progress": False})
    other.start()
    make_dataset(sources, two, settings, Rank(0, barrier), progress=False)  # type: ignore[arg-type]
    other.join()
    one_files, two_files = content(tmp_path / "one"), content(two)
    assert one_files.keys() == two_files.keys()
    # The report names its folder.
    assert {name for name in one_files if one_files[name] != two_files[name]} <= {"report.html"}


def test_speech_of_letters_that_the_aligner_does_not_know_has_a_low_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sentences = make_sentences(5)
    write_recording(tmp_path / "in" / "talk.flac", sentences, [*sentences[:4], "Ωκεανός " + sentences[4]])
    make([tmp_path / "in"], tmp_path / "out")
    assert [clip.text for clip in accepted(tmp_path / "out")] == sentences[:4]
    assert "tones ignores letters of the text that it does not know: " in caplog.text
    assert "'κ' (U+03BA) 1" in caplog.text


def make_with(paths: Sequence[Path], output: Path, aligner: ToneAligner | PlugAligner, asr: bool) -> Summary:
    """Make a data set with a recognizer, or with an aligner that does not tell what it hears."""
    settings = Settings("en", aligner, 0.5, recognise if asr else None, "tones")
    return make_dataset(find_sources(paths, "en"), output, settings, progress=False)


@pytest.mark.parametrize("aligner", [ToneAligner(), PlugAligner("tones:align")], ids=["ctc", "function"])
def test_a_recognizer_writes_the_text(tmp_path: Path, aligner: ToneAligner | PlugAligner) -> None:
    sentences = make_sentences(12)
    write_recording(tmp_path / "in" / "talk.flac", sentences)
    (tmp_path / "in" / "talk.txt").unlink()
    make_with([tmp_path / "in"], tmp_path / "out", aligner, asr=True)
    clips = accepted(tmp_path / "out")
    spoken = " ".join(sentences).lower().replace(".", "")
    assert " ".join(clip.text for clip in clips) == spoken
    assert all(clip.scores.error_rate is None for clip in clips)


def test_a_recognizer_finds_the_place_of_a_text_for_a_function(tmp_path: Path) -> None:
    sentences = make_sentences(14)
    text = [*sentences[:4], *make_sentences(1, words=OTHER_WORDS), *sentences[4:9], *sentences[10:]]
    write_recording(tmp_path / "in" / "talk.flac", sentences, text)
    make_with([tmp_path / "in"], tmp_path / "out", PlugAligner("tones:align"), asr=True)
    clips = accepted(tmp_path / "out")
    assert {clip.text for clip in clips} <= set(sentences)
    assert len(clips) >= 10
    assert all(clip.scores.error_rate == pytest.approx(0.0) for clip in clips)
    assert ("text_without_speech", text[4]) in set_aside(tmp_path / "out")


def test_a_recognizer_lowers_the_score_of_a_clip_with_another_text(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(3))
    output, settings = tmp_path / "out", Settings("en", ToneAligner(), 0.5, lambda audio, rate: "nothing", "deaf")
    make_dataset(find_sources([tmp_path / "in"], "en"), output, settings, progress=False)
    assert {clip.rejected for clip in read_clips(output / "clips.jsonl")} == {Reason.ERROR_RATE}


def test_subtitles_are_enough_for_a_function(tmp_path: Path) -> None:
    sentences = make_sentences(6)
    times = write_recording(tmp_path / "in" / "talk.flac", sentences)
    (tmp_path / "in" / "talk.txt").unlink()
    cues = [
        f"{number}\n00:00:{start:06.3f} --> 00:00:{end:06.3f}\n{sentence}\n".replace(".", ",", 2)
        for number, ((start, end), sentence) in enumerate(zip(times, sentences, strict=True), start=1)
    ]
    (tmp_path / "in" / "talk.srt").write_text("\n".join(cues), encoding="utf-8")
    make_with([tmp_path / "in"], tmp_path / "out", PlugAligner("tones:align"), asr=False)
    assert [clip.text for clip in accepted(tmp_path / "out")] == sentences


def test_if_no_sentence_was_heard_the_text_is_named(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(3))
    (tmp_path / "in" / "talk.txt").unlink()
    (tmp_path / "in" / "talk.srt").write_text(
        "1\n00:00:00,000 --> 00:00:09,000\nQuite another text.\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"No sentence of .*talk\.srt was heard in .*talk\.flac\. Check"):
        make_with([tmp_path / "in"], tmp_path / "out", PlugAligner("tones:align"), asr=False)


def test_a_function_without_a_recognizer_cannot_place_a_transcript(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(3))
    with pytest.raises(ConfigError, match="Pass --asr"):
        make_with([tmp_path / "in"], tmp_path / "out", PlugAligner("tones:align"), asr=False)


def test_a_kill_while_recognizing_repeats_no_part(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(4))
    calls = 0

    def killed(audio: npt.NDArray[np.float32], rate: int) -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return recognise(audio, rate)

    output, settings = tmp_path / "out", Settings("en", ToneAligner(), 0.5, killed, "tones")
    sources = find_sources([tmp_path / "in"], "en")
    with pytest.raises(Killed):
        make_dataset(sources, output, settings, progress=False)
    make_dataset(sources, output, settings, progress=False)
    # Four clips, of which the third was heard twice.
    assert calls == 5


def test_two_calls_at_a_time_are_refused(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(1))
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with FileLock(tmp_path / "out" / ".work" / ".lock"), pytest.raises(MachineError, match="Another process"):
        make([tmp_path / "in"], tmp_path / "out")


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "talk.flac", make_sentences(1))
    with pytest.raises(ConfigError, match="is a file"):
        make([tmp_path / "in"], tmp_path / "in" / "talk.txt")
