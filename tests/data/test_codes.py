"""Codes once: what is encoded, what is known already, and what a kill leaves."""

import errno
import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from runs import only_run
from samples import make_sample
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

from xtts_extend.cli import main
from xtts_extend.data.audio import load_audio, measure_recording, save_wav
from xtts_extend.data.codes import encode_samples
from xtts_extend.data.encoded import read_index
from xtts_extend.errors import ConfigError, DataError, MachineError

RATE = 22050


class FakeCodec:
    """Codes that tell the recording; notes what it encoded."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.encoded: list[int] = []
        self.fail_at = fail_at

    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        if len(self.encoded) == self.fail_at:
            raise KeyboardInterrupt
        self.encoded.append(wav.shape[-1])
        return torch.full((-(-wav.shape[-1] // 1024),), wav.shape[-1] % 1000)


def tokenize(text: str, language: str) -> list[int]:
    return [len(language), *map(ord, text)]


@pytest.fixture
def samples(tmp_path):
    """Three recordings with their digests; the third has two texts."""
    found = []
    for number, text in enumerate(("ሀ", "b", "c")):
        path = tmp_path / "ድምፅ 1" / f"{number}.wav"
        save_wav(path, torch.linspace(-0.5, 0.5, RATE + 100 * number), RATE)
        digest = measure_recording(path).digest
        found.append(make_sample(text, audio_file=str(path), language="am", audio_digest=digest))
    return [*found, replace(found[2], text="d")]


def encode(samples, folder, codec, dvae="D", texts="T"):
    return encode_samples(
        samples, codec, tokenize, folder, codec_digest=dvae, text_digest=texts, sample_rate=RATE, progress=False
    )


def test_each_recording_once(samples, tmp_path):
    codec = FakeCodec()
    found, made = encode(samples, tmp_path / "set", codec)
    assert made == 3
    assert codec.encoded == [RATE, RATE + 100, RATE + 200]
    for sample, given in zip(found, samples, strict=True):
        number = int(given.audio_file[-5])
        assert sample.encoded.wav_length == RATE + 100 * number
        assert torch.equal(sample.encoded.codes(), torch.full((22,), (RATE + 100 * number) % 1000))
        assert sample.encoded.ids().tolist() == tokenize(given.text, "am")
        assert sample.encoded.has_ids
        assert replace(sample, encoded=None) == given
    again = FakeCodec()
    (tmp_path / "set" / ".lock").unlink()
    assert encode(samples, tmp_path / "set", again) == (found, 0)
    assert again.encoded == []
    # where nothing is missing, nothing is written: the set may lie on a read-only disk
    assert not (tmp_path / "set" / ".lock").exists()


def test_a_changed_file_is_encoded_again_and_a_renamed_one_is_not(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    save_wav(samples[0].audio_file, torch.linspace(-0.5, 0.5, 2 * RATE), RATE)
    samples[0] = replace(samples[0], audio_digest=measure_recording(samples[0].audio_file).digest)
    renamed = tmp_path / "renamed.wav"
    (tmp_path / "ድምፅ 1" / "1.wav").rename(renamed)
    samples[1] = replace(samples[1], audio_file=str(renamed))
    codec = FakeCodec()
    found, made = encode(samples, tmp_path / "set", codec)
    assert (made, codec.encoded) == (1, [2 * RATE])
    assert [sample.encoded.wav_length for sample in found] == [2 * RATE, RATE + 100, RATE + 200, RATE + 200]
    assert found[1].audio_file == str(renamed)


def test_another_text_for_a_recording_costs_no_encoding(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    codec = FakeCodec()
    found, made = encode([replace(samples[0], text="new")], tmp_path / "set", codec)
    assert (made, codec.encoded) == (0, [])
    assert found[0].encoded.ids().tolist() == tokenize("new", "am")
    assert torch.equal(found[0].encoded.codes(), torch.full((22,), RATE % 1000))


def test_another_vocabulary_costs_no_encoding(samples, tmp_path):
    first, _ = encode(samples, tmp_path / "set", FakeCodec())
    codec = FakeCodec()
    found, made = encode_samples(
        samples, codec, lambda text, language: [7, *map(ord, text)], tmp_path / "set",
        codec_digest="D", text_digest="other", sample_rate=RATE, progress=False,
    )  # fmt: skip
    assert (made, codec.encoded) == (0, [])
    assert [sample.encoded.ids().tolist() for sample in found] == [[7, ord(text)] for text in ("ሀ", "b", "c", "d")]
    assert [sample.encoded.codes()[0] for sample in found] == [50, 150, 250, 250]
    # those of the first are still there
    assert encode(samples, tmp_path / "set", FakeCodec()) == (first, 0)


def test_what_an_interrupt_leaves_is_gone_on_with(samples, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(samples, tmp_path / "set", FakeCodec(fail_at=2))
    codec = FakeCodec()
    found, made = encode(samples, tmp_path / "set", codec)
    assert (made, codec.encoded) == (1, [RATE + 200])
    assert [sample.encoded.codes()[0] for sample in found] == [50, 150, 250, 250]


def test_a_damaged_part_is_made_again(samples, tmp_path, caplog):
    encode(samples, tmp_path / "set", FakeCodec())
    part = tmp_path / "set" / read_index(tmp_path / "set")["parts"][0]["file"]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    codec = FakeCodec()
    with caplog.at_level("WARNING", "trainer"):
        found, made = encode(samples, tmp_path / "set", codec)
    assert made == 3
    assert f"{part} is damaged: its 4 utterances are encoded again" in caplog.text
    assert [sample.encoded.codes()[0] for sample in found] == [50, 150, 250, 250]


def test_what_was_not_read_is_not_encoded(samples, tmp_path):
    with pytest.raises(DataError, match=r"2\.wav was not read yet"):
        encode([*samples[:2], replace(samples[2], audio_digest=None)], tmp_path / "set", FakeCodec())
    assert not (tmp_path / "set").exists()


def test_folders_that_are_something_else(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    with pytest.raises(ConfigError, match="made with other settings: the DVAE changed"):
        encode(samples, tmp_path / "set", FakeCodec(), dvae="other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="mine exists and is no set of encoded utterances"):
        encode(samples, tmp_path / "mine", FakeCodec())


def test_what_a_kill_leaves_of_the_index_is_no_obstacle(samples, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".set.json.4711.tmp").write_text("{")
    assert encode(samples, tmp_path / "set", FakeCodec())[1] == 3


def test_a_damaged_index_is_named(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    (tmp_path / "set" / "set.json").write_text('{"version": 2, "par')
    with pytest.raises(DataError, match=r"set\.json is damaged\. Remove its folder, and make the set again"):
        encode(samples, tmp_path / "set", FakeCodec())


def test_a_folder_that_cannot_be_written_to(samples, tmp_path, monkeypatch):
    def refuse(self, timeout=None):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(MachineError, match="set cannot be written to: Read-only file system"):
        encode(samples, tmp_path / "set", FakeCodec())


def test_two_that_begin_at_once_share_the_work(samples, tmp_path):
    for number in range(20):
        folder, codecs, made = tmp_path / f"set {number}", [FakeCodec(), FakeCodec()], []
        begin = threading.Barrier(2)

        def one(codec, begin=begin, folder=folder, made=made):
            begin.wait()
            made.append(encode(samples, folder, codec)[1])

        threads = [threading.Thread(target=one, args=(codec,)) for codec in codecs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [0, 3]
        assert sum(len(codec.encoded) for codec in codecs) == 3


def test_who_comes_second_waits_and_finds_what_was_made(samples, tmp_path, caplog):
    with caplog.at_level("INFO", "trainer"):
        encode(samples[:1], tmp_path / "set", FakeCodec())
        assert "waiting" not in caplog.text
        second, codec = [], FakeCodec()
        waiting = threading.Thread(target=lambda: second.extend(encode(samples, tmp_path / "set", codec)))
        with FileLock(tmp_path / "set" / ".lock"):
            waiting.start()
            waiting.join(0.5)
            assert waiting.is_alive()
        waiting.join(30)
    assert "another process encodes into" in caplog.text
    assert second[1] == 2
    assert codec.encoded == [RATE + 100, RATE + 200]


def test_a_recording_that_has_gone_is_named(samples, tmp_path):
    (tmp_path / "ድምፅ 1" / "1.wav").unlink()
    with pytest.raises(DataError, match=r"1\.wav: no such file"):
        encode(samples, tmp_path / "set", FakeCodec())
    # what came before it is kept
    assert read_index(tmp_path / "set")["parts"][0]["rows"] == 1


def test_codes_are_stocks_for_the_same_clip_and_padding_changes_only_stocks(corpus, tmp_path):
    from xtts_extend.model.codec import Codec
    from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
    from xtts_extend.setup.base import config_for_base

    config = config_for_base(corpus.base)
    model = ExtendedGPTTrainer(config).eval()

    def stock(wav):
        length = wav.shape[-1]
        batch = GPTTrainer.format_batch_on_device(
            model,
            {
                "text_lengths": None, "wav_lengths": None, "padded_text": None, "cond_idxs": None, "cond_lens": None,
                "conditioning": torch.zeros(1, 1, 1, 2000), "wav": wav.unsqueeze(0), "filenames": None,
            },
        )  # fmt: skip
        return batch["audio_codes"][0], -(-length // 1024)

    codec = Codec.load(config)
    changed = 0
    for line in corpus.train.read_text(encoding="utf-8").splitlines()[1:6]:
        wav = load_audio(corpus.train.parent / line.split("|")[0], RATE)
        alone, count = stock(wav)
        codes = codec.encode(wav)
        assert torch.equal(codes, alone[:count])
        assert torch.equal(codes, model.codec.encode(wav))
        padded = stock(torch.nn.functional.pad(wav, (0, 30000)))[0][:count]
        differs = (padded != codes).nonzero().squeeze(1)
        # the convolutions see a few codes far
        assert not len(differs) or differs.min() >= count - 8
        changed += len(differs)
    assert changed


def test_the_command(corpus, tmp_path, capsys):
    flags = ["--manifest", f"{corpus.train}:am", "--base-dir", str(corpus.base), "--vocab", str(corpus.vocab)]
    flags += ["--output", str(tmp_path / "set"), "--json"]
    assert main(["encode", *flags]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["utterances"], first["encoded"], first["unusable"]) == (12, 12, 0)
    assert main(["encode", *flags]) == 0
    assert json.loads(capsys.readouterr().out) == first | {"encoded": 0}
    # a foreign folder is not written to
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit) as caught:
        main(["encode", *[str(tmp_path / "mine") if part == flags[7] else part for part in flags]])
    assert caught.value.code == 2
    assert "mine exists and is no set" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    # without the language's tag there are no token ids
    del flags[4:6]
    with pytest.raises(SystemExit) as caught:
        main(["encode", *flags])
    assert caught.value.code == 2
    assert "no tag [am]" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_reads_what_encode_made(corpus, recipe, tmp_path, capsys, caplog):
    codes = tmp_path / "am codes"
    flags = ["--manifest", f"{corpus.train}:am", "--base-dir", str(corpus.base), "--vocab", str(corpus.vocab)]
    assert main(["encode", *flags, "--output", str(codes)]) == 0
    before = {file.name: file.read_bytes() for file in codes.iterdir()}
    given = {"output_dir": tmp_path / "runs", "val_manifest": None, "max_steps": 2}
    with caplog.at_level("INFO", "trainer"):
        recipe(corpus.flags(codes=codes, **given))
        assert "were encoded" not in caplog.text
        assert {file.name: file.read_bytes() for file in codes.iterdir()} == before
        assert not (tmp_path / "runs" / ".codes").exists()
        # a resume knows the folder, and makes it where it is not
        shutil.rmtree(codes)
        run = only_run(tmp_path / "runs")
        recipe(["--checkpoint", str(run), "--max-steps", "4"])
        assert f"12 recordings were encoded; their codes are kept in {codes}" in caplog.text
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8")
    # the same run without codes that were made beforehand
    recipe(corpus.flags(codes=None, **given | {"output_dir": tmp_path / "other", "max_steps": 4}))
    assert (only_run(tmp_path / "other") / "metrics.jsonl").read_text(encoding="utf-8") == lines
    # codes are no manifest
    with pytest.raises(SystemExit) as caught:
        recipe(corpus.flags(train_manifest=codes, output_dir=tmp_path / "runs", val_manifest=None))
    assert caught.value.code == 2
    assert "holds the codes of recordings. Give it as --codes" in capsys.readouterr().err
