"""A base model makes a replay set: what is kept is what it said, and making goes on where it was interrupted."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from xtts_extend.cli import main
from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.encoded import read_encoded, read_index
from xtts_extend.errors import ConfigError, DataError, LanguageError, MachineError
from xtts_extend.speech import replay as replay_module
from xtts_extend.speech.replay import _speakable_lines, make_replay
from xtts_extend.text.tokenizer import load_tokenizer

RATE = 22050
LINES = ["Hello world.", "A small house.", "The old farmer sings.", "My sister reads."]


@pytest.fixture
def given(mini_base, tmp_path):
    """Arguments of make_replay: two languages, two voices, paths that are not Latin."""
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
    """What a set holds, whatever parts it is in."""
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


def test_a_set_is_what_the_base_said(given, mini_base):
    made = make_replay(**given)
    samples = read_encoded(given["output"], 1024, RATE)
    assert made["utterances"] == len(samples)
    assert set(made["hours"]) == {"en", "es"}
    for language, hours in made["hours"].items():
        spoken = sum(sample.duration_s for sample in samples if sample.language == language)
        assert spoken == pytest.approx(3600 * hours)
        assert spoken >= 20
    # too short ones are counted, and not kept
    assert made["empty"] > 0
    assert min(sample.duration_s for sample in samples) >= 0.5
    assert {sample.text for sample in samples if sample.language == "es"} == {"Hola amigo.", "La casa es grande."}
    assert {sample.speaker_name for sample in samples} == {"voice-000", "voice-001"}

    # the distribution that is kept is the base's, for the very conditioning that training will give it
    speaker = replay_module._Speaker(mini_base, given["conditioning_s"])
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
def test_making_goes_on_where_it_was_interrupted(given, monkeypatch, tmp_path):
    make_replay(**given)
    other = given | {"output": tmp_path / "interrupted"}
    speak, calls = replay_module._speak_batch, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return speak(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(replay_module, "_speak_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_replay(**other)
    # what was spoken before is kept
    assert sum(read_index(other["output"])["batches"].values()) == 2
    make_replay(**other)
    assert rows(other["output"]) == rows(given["output"])
    parts = sorted(file.name for file in other["output"].glob("part-*"))
    make_replay(**other)
    assert sorted(file.name for file in other["output"].glob("part-*")) == parts


@pytest.mark.slow
def test_a_part_without_an_entry_does_not_count(given):
    make_replay(**given)
    whole = rows(given["output"])
    index = read_index(given["output"])
    # killed between the part and the index
    (given["output"] / f"part-{len(index['parts']):05d}.arrow").write_bytes(b"half")
    assert rows(given["output"]) == whole


@pytest.mark.slow
def test_other_settings_do_not_go_on_with_a_set(given):
    make_replay(**given)
    before = rows(given["output"])
    with pytest.raises(ConfigError, match="the voices, the seed changed"):
        make_replay(**given | {"seed": 1, "references": given["references"][:1]})
    assert rows(given["output"]) == before


@pytest.fixture
def odd(tmp_path):
    """A folder with what is no text and no set."""
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"conditioning_s": None}, DataError, r"shortest slice that conditions \(3\.0 s\)"),
        ({"hours": float("nan")}, ConfigError, "above 0"),
        ({"conditioning_s": (2.0, 1.0)}, ConfigError, "0 < shortest <= longest"),
    ],
    ids=["slices that no voice has", "hours", "slices the wrong way round"],
)
def test_settings_that_make_no_set(given, other, error, message):
    with pytest.raises(error, match=message):
        make_replay(**given | other)


@pytest.mark.parametrize(
    ("language", "name", "error", "message"),
    [
        ("am", "ጽሑፍ texts/en.txt", LanguageError, "am"),
        ("en", "empty.txt", DataError, "No usable sentence"),
        ("en", "none.txt", DataError, "cannot be read"),
    ],
    ids=["language", "empty", "missing"],
)
def test_texts_that_make_no_set(given, odd, language, name, error, message):
    with pytest.raises(error, match=message):
        make_replay(**given | {"texts": {language: [odd / name]}})


def test_a_folder_of_other_things_is_no_set(given, odd):
    with pytest.raises(ConfigError, match="other exists but is not a set of encoded utterances"):
        make_replay(**given | {"output": odd / "other"})


@pytest.mark.slow
def test_a_language_that_the_base_does_not_speak_is_given_up(given, monkeypatch):
    speak = replay_module._Speaker.speak

    def without_spanish(self, ids, voice):
        found = speak(self, ids, voice)
        return [None] * len(found) if ids[0, 0] == self.tokenizer.encode("a", "es")[0] else found

    monkeypatch.setattr(replay_module._Speaker, "speak", without_spanish)
    with pytest.raises(DataError, match="Nothing of the first 20 batches in es can be used"):
        make_replay(**given)


@pytest.mark.slow
def test_what_training_does_not_take_is_left_out(given, monkeypatch):
    limits = replay_module.limits_of

    def of(config):
        return replace(limits(config), max_wav_length=20 * 1024, max_text_length=10)

    monkeypatch.setattr(replay_module, "limits_of", of)
    speaker = replay_module._Speaker(given["base_dir"], given["conditioning_s"])
    made = make_replay(**given | {"hours": 0.002})
    samples = read_encoded(given["output"], 1024, RATE)
    assert made["too_long"] > 0
    assert max(sample.encoded.wav_length for sample in samples) <= 20 * 1024
    tokens = {len(speaker.tokenizer.encode(sample.text, sample.language)) for sample in samples}
    assert max(tokens) <= 10 < max(len(speaker.tokenizer.encode(line, "en")) for line in LINES)


@pytest.mark.slow
def test_one_process_at_a_time(given):
    make_replay(**given)
    with FileLock(given["output"] / ".lock"), pytest.raises(MachineError, match="Another process makes"):
        make_replay(**given)


def test_the_command(given, capsys):
    command = ["make-replay", "--json", f"--base-dir={given['base_dir']}", f"--output={given['output']}"]
    command += [f"--text={code}={file}" for code, (file,) in given["texts"].items()]
    command += ["--reference", *map(str, given["references"]), "--hours=0.003", "--conditioning-s", "0.5", "1"]
    assert main(command) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["utterances"] == len(rows(given["output"]))
    with pytest.raises(SystemExit) as caught:
        main([*command, "--text=english.txt"])
    assert caught.value.code == 2
    assert "LANG=FILE was expected" in capsys.readouterr().err


def test_lines_with_nothing_to_say_are_left_out(mini_base, tmp_path):
    speaker = SimpleNamespace(
        tokenizer=load_tokenizer(mini_base / "vocab.json"), limits=SimpleNamespace(max_text_length=200)
    )
    (tmp_path / "en.txt").write_text('...\nHello there.\n" ! ?\n', encoding="utf-8")
    assert [sentence for sentence, _ in _speakable_lines(speaker, "en", [tmp_path / "en.txt"])] == ["Hello there."]
