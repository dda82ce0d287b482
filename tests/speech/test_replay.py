"""Replay sets contain what the base generates, and interrupted sets can be resumed."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from xtts_extend.cli import main
from xtts_extend.data import encoded as encoded_module
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.encoded import TOP_K, Utterance, read_encoded, read_index
from xtts_extend.errors import ConfigError, DataError, LanguageError, MachineError
from xtts_extend.speech import replay as replay_module
from xtts_extend.speech.replay import _speakable_lines, make_replay
from xtts_extend.speech.replay_batches import Batch
from xtts_extend.text.tokenizer import load_tokenizer

RATE = 22050
LINES = ["Hello world.", "A small house.", "The old farmer sings.", "My sister reads."]


@pytest.fixture
def arguments(mini_base, tmp_path):
    """Arguments of make_replay: two languages, two voices, paths with non-Latin characters."""
    folder = tmp_path / "ጽሑፍ texts"
    folder.mkdir()
    (folder / "en.txt").write_text("\n".join(LINES * 3), encoding="utf-8")
    (folder / "es.txt").write_text("Hola amigo.\nLa casa es grande.\n\nบ้าน\n", encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        save_wav(folder / f"voice {number}.wav", 0.1 * torch.randn(2 * RATE, generator=generator), RATE)
    return {
        "base_dir": mini_base,
        "texts": {"en": [folder / "en.txt"], "es": [folder / "es.txt"]},
        "references": [folder / "voice 0.wav", folder / "voice 1.wav"],
        "hours": 40 / 3600,
        "output": tmp_path / "set",
        "conditioning_s": (0.5, 1.0),
        "progress": False,
    }


def rows(folder):
    """Return the content of a set, regardless of how it is divided into parts."""
    return [
        (
            sample.text,
            sample.language,
            sample.speaker_name,
            sample.conditioning_slice,
            sample.encoded.codes().tolist(),
            *(part.tolist() for part in sample.encoded.distribution()),
        )
        for sample in read_encoded(folder, 1024, RATE)
    ]


def test_a_set_contains_what_the_base_generates(arguments, mini_base):
    result = make_replay(**arguments)
    samples = read_encoded(arguments["output"], 1024, RATE)
    assert result["utterances"] == len(samples)
    assert set(result["hours"]) == {"en", "es"}
    for language, hours in result["hours"].items():
        spoken = sum(sample.duration_s for sample in samples if sample.language == language)
        assert spoken == pytest.approx(3600 * hours)
        assert spoken >= 20
    # Utterances that are too short are counted, but not stored.
    assert result["empty"] > 0
    assert min(sample.duration_s for sample in samples) >= 0.5
    assert {sample.text for sample in samples if sample.language == "es"} == {"Hola amigo.", "La casa es grande."}
    assert {sample.speaker_name for sample in samples} == {"voice-000", "voice-001"}

    # The stored distribution is the base's, with the same conditioning as in training.
    speaker = replay_module._Speaker(mini_base, arguments["conditioning_s"])
    sample = samples[3]
    start, end = sample.conditioning_slice
    voice = load_audio(sample.audio_file, RATE)[:, start:end]
    padded = torch.nn.functional.pad(voice, (0, RATE - voice.shape[-1]))
    mels = speaker.model.torch_mel_spectrogram_style_encoder(padded.unsqueeze(0)).unsqueeze(1)
    codes = sample.encoded.codes().unsqueeze(0)
    ids = torch.tensor([speaker.tokenizer.encode(sample.text, sample.language)])
    with torch.no_grad():
        lengths = torch.tensor([ids.shape[1]]), codes, torch.tensor([sample.encoded.wav_length])
        logits = speaker.gpt(ids, *lengths, cond_mels=mels)[2]
    expected = logits[0].T.log_softmax(-1)[: codes.shape[1] + 1]
    top_ids, log_probs = sample.encoded.distribution()
    difference = (expected.gather(-1, top_ids) - log_probs).abs()
    assert difference.max() < 5e-3
    assert torch.equal(top_ids[:, 0], expected.argmax(-1))


@pytest.mark.slow
def test_an_interrupted_set_is_resumed(arguments, monkeypatch, tmp_path):
    make_replay(**arguments)
    resumed = arguments | {"output": tmp_path / "interrupted"}
    speak, calls = replay_module._speak_batch, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return speak(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(replay_module, "_speak_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_replay(**resumed)
    # Batches from before the interruption are stored.
    assert sum(read_index(resumed["output"])["batches"].values()) == 2
    make_replay(**resumed)
    assert rows(resumed["output"]) == rows(arguments["output"])
    parts = sorted(file.name for file in resumed["output"].glob("part-*"))
    make_replay(**resumed)
    assert sorted(file.name for file in resumed["output"].glob("part-*")) == parts


@pytest.fixture
def quick(arguments, mini_base, monkeypatch):
    """Arguments of make_replay with one language and made-up speech, and the list of the batches that are spoken."""
    speaker = SimpleNamespace(
        tokenizer=load_tokenizer(mini_base / "vocab.json"), limits=SimpleNamespace(max_text_length=200),
        sample_rate=RATE, slice_lengths=(RATE // 2, RATE), gpt=SimpleNamespace(code_stride_len=1024),
    )  # fmt: skip
    spoken = []

    def speak(speaker, language, lines, voices, number, seed):
        spoken.append(number)
        generator = torch.Generator().manual_seed(number)
        codes = torch.randint(1024, (40 + number,), generator=generator)
        ids = torch.randint(1026, (len(codes) + 1, TOP_K), generator=generator)
        # The first batch has nothing usable.
        usable = [Utterance(f"text {number}", language, "voice-000.wav", codes, (0, RATE), (ids, -ids / 4))][:number]
        return Batch(language, usable, {"runaway": number % 3, "empty": 1, "too_long": 0})

    monkeypatch.setattr(replay_module, "_Speaker", lambda *given: speaker)
    monkeypatch.setattr(replay_module, "_speak_batch", speak)
    return arguments | {"texts": {"en": arguments["texts"]["en"]}, "hours": 30 / 3600}, spoken


def test_a_killed_process_leaves_a_journal_that_is_joined_at_the_end(quick, monkeypatch, tmp_path):
    arguments, spoken = quick
    make_replay(**arguments)
    expected = (arguments["output"] / "set.json").read_bytes()
    assert not list(arguments["output"].glob(".parts-*"))
    monkeypatch.setattr(replay_module, "_BATCHES_IN_PART", 1)
    speak, written = replay_module._speak_batch, []
    write_index = encoded_module.write_index
    monkeypatch.setattr(encoded_module, "write_index", lambda *given: (written.append(1), write_index(*given)))
    killed = arguments | {"output": tmp_path / "killed"}

    def speak_until(number):
        return lambda *given: speak(*given) if given[4] < number else pytest.fail("killed")

    with monkeypatch.context() as patch:
        # As if the process was killed: nothing is joined.
        patch.setattr(replay_module, "join_parts", lambda folder: None)
        patch.setattr(replay_module, "_speak_batch", speak_until(5))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            make_replay(**killed)
    index = read_index(killed["output"])
    # Batch 0 has nothing usable, so it has no part.
    assert [part["rows"] for part in index["parts"]] == [1, 1, 1, 1]
    assert (index["batches"], index["runaway"], index["empty"]) == ({"en": 5}, 0 + 1 + 2 + 0 + 1, 5)
    assert index["seconds"] == {"en": pytest.approx((41 + 42 + 43 + 44) * 1024 / RATE)}
    assert json.loads((killed["output"] / "set.json").read_text(encoding="utf-8"))["parts"] == []
    # Once when the set was created; the index without a part is written elsewhere.
    assert len(written) == 1

    spoken.clear()
    # The last line may be incomplete.
    (journal,) = killed["output"].glob(".parts-*")
    journal.write_bytes(journal.read_bytes()[:-9])
    make_replay(**killed)
    assert spoken[0] == 4
    assert rows(killed["output"]) == rows(arguments["output"])
    joined = json.loads((killed["output"] / "set.json").read_text(encoding="utf-8"))
    assert {**joined, "parts": None} == {**json.loads(expected), "parts": None}
    assert [sorted(part) for part in joined["parts"]] == [["file", "rows", "sha256"]] * 14
    assert len(written) == 2
    assert not list(killed["output"].glob(".parts-*"))


def test_several_processes_make_the_set_of_one(quick, tmp_path):
    """The second process is missing here, so the first one finds only its own share, every other batch."""
    arguments, spoken = quick
    expected = make_replay(**arguments)
    count = len(spoken)
    assert count == 15
    spoken.clear()
    first = SimpleNamespace(rank=0, size=2, wait=lambda: None, from_main=lambda value: value)
    shared = arguments | {"output": tmp_path / "shared"}
    assert make_replay(**shared, processes=first) == expected | {"output": str(shared["output"])}
    assert read_index(shared["output"]) == read_index(arguments["output"])
    # The process cannot know that the other one is missing, so it speaks enough by itself. The batches that are missing
    # are spoken at the end.
    own = [number for number in spoken if number % 2 == 0]
    assert spoken == own + list(range(1, count, 2))
    assert own == list(range(0, len(own) * 2, 2))
    assert not (shared["output"] / ".batches").exists()
    # With more hours, only new batches are spoken.
    spoken.clear()
    make_replay(**shared | {"hours": 40 / 3600}, processes=first)
    assert min(spoken) == count


@pytest.mark.slow
def test_a_part_without_an_index_entry_is_ignored(arguments):
    make_replay(**arguments)
    expected = rows(arguments["output"])
    index = read_index(arguments["output"])
    # As if the process was killed between writing the part and the index.
    (arguments["output"] / f"part-{len(index['parts']):05d}.arrow").write_bytes(b"half")
    assert rows(arguments["output"]) == expected


@pytest.mark.slow
def test_a_set_is_not_resumed_with_other_settings(arguments):
    make_replay(**arguments)
    before = rows(arguments["output"])
    with pytest.raises(ConfigError, match="the voices, the seed changed"):
        make_replay(**arguments | {"seed": 1, "references": arguments["references"][:1]})
    assert rows(arguments["output"]) == before


@pytest.fixture
def odd(tmp_path):
    """A folder with an empty text and a folder that is not a set."""
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"conditioning_s": None}, DataError, r"shortest conditioning slice \(3\.0 s\)"),
        ({"hours": float("nan")}, ConfigError, "above 0"),
        ({"conditioning_s": (2.0, 1.0)}, ConfigError, "0 < shortest <= longest"),
    ],
    ids=["slices that no voice has", "hours", "slices the wrong way round"],
)
def test_settings_that_are_refused(arguments, other, error, message):
    with pytest.raises(error, match=message):
        make_replay(**arguments | other)


@pytest.mark.parametrize(
    ("language", "name", "error", "message"),
    [
        ("am", "ጽሑፍ texts/en.txt", LanguageError, "am"),
        ("en", "empty.txt", DataError, "No usable sentences for language en were found in "),
        ("en", "none.txt", DataError, "cannot be read"),
    ],
    ids=["language", "empty", "missing"],
)
def test_texts_that_are_refused(arguments, odd, language, name, error, message):
    with pytest.raises(error, match=message):
        make_replay(**arguments | {"texts": {language: [odd / name]}})


def test_a_folder_with_other_files_is_refused(arguments, odd):
    with pytest.raises(ConfigError, match="other exists but is not a set of encoded utterances"):
        make_replay(**arguments | {"output": odd / "other"})


@pytest.mark.slow
def test_a_language_that_the_base_does_not_speak_is_an_error(arguments, monkeypatch):
    speak = replay_module._Speaker.speak

    def without_spanish(self, ids, voice):
        results = speak(self, ids, voice)
        return [None] * len(results) if ids[0, 0] == self.tokenizer.encode("a", "es")[0] else results

    monkeypatch.setattr(replay_module._Speaker, "speak", without_spanish)
    with pytest.raises(DataError, match="None of the speech in the first 20 batches in es is usable"):
        make_replay(**arguments)


@pytest.mark.slow
def test_utterances_that_are_too_long_for_training_are_skipped(arguments, monkeypatch):
    limits = replay_module.limits_of

    def lower_limits(config):
        return replace(limits(config), max_wav_length=20 * 1024, max_text_length=10)

    monkeypatch.setattr(replay_module, "limits_of", lower_limits)
    speaker = replay_module._Speaker(arguments["base_dir"], arguments["conditioning_s"])
    result = make_replay(**arguments | {"hours": 0.002})
    samples = read_encoded(arguments["output"], 1024, RATE)
    assert result["too_long"] > 0
    assert max(sample.encoded.wav_length for sample in samples) <= 20 * 1024
    tokens = {len(speaker.tokenizer.encode(sample.text, sample.language)) for sample in samples}
    assert max(tokens) <= 10 < max(len(speaker.tokenizer.encode(line, "en")) for line in LINES)


@pytest.mark.slow
def test_only_one_process_writes_a_set(arguments):
    make_replay(**arguments)
    with FileLock(arguments["output"] / ".lock"), pytest.raises(MachineError, match="Another process is writing"):
        make_replay(**arguments)


def test_the_command(arguments, capsys):
    command = ["make-replay", "--json", f"--base-dir={arguments['base_dir']}", f"--output={arguments['output']}"]
    command += [f"--text={code}={file}" for code, (file,) in arguments["texts"].items()]
    command += ["--reference", *map(str, arguments["references"]), "--hours=0.003", "--conditioning-s", "0.5", "1"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["utterances"] == len(rows(arguments["output"]))
    with pytest.raises(SystemExit) as caught:
        main([*command, "--text=english.txt"])
    assert caught.value.code == 2
    assert "--text english.txt: expected LANG=FILE" in capsys.readouterr().err


def test_lines_without_words_are_skipped(mini_base, tmp_path):
    speaker = SimpleNamespace(
        tokenizer=load_tokenizer(mini_base / "vocab.json"), limits=SimpleNamespace(max_text_length=200)
    )
    (tmp_path / "en.txt").write_text('...\nHello there.\n" ! ?\n', encoding="utf-8")
    assert [sentence for sentence, _ in _speakable_lines(speaker, "en", [tmp_path / "en.txt"])] == ["Hello there."]
