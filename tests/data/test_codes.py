"""Sets of codes: what is encoded, what is reused, and what is left after an interruption."""

import errno
import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from processes import two_processes
from runs import only_run
from samples import make_sample
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

from xtts_extend.cli import main
from xtts_extend.data import codes
from xtts_extend.data import encoded as encoded_module
from xtts_extend.data.audio import load_audio, measure_recording, save_wav
from xtts_extend.data.codes import encode_samples
from xtts_extend.data.encoded import read_index
from xtts_extend.data.processes import SINGLE_PROCESS
from xtts_extend.errors import ConfigError, DataError, MachineError

RATE = 22050


class FakeCodec:
    """An encoder whose codes depend on the length of the recording, and which records the lengths."""

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
    """Samples of three recordings with digests. The third has two texts."""
    samples = []
    for number, text in enumerate(("ሀ", "b", "c")):
        path = tmp_path / "ድምፅ 1" / f"{number}.wav"
        save_wav(path, torch.linspace(-0.5, 0.5, RATE + 100 * number), RATE)
        digest = measure_recording(path).digest
        samples.append(make_sample(text, audio_file=str(path), language="am", audio_digest=digest))
    return [*samples, replace(samples[2], text="d")]


def encode(samples, folder, codec, processes=SINGLE_PROCESS, dvae="D", texts="T"):
    return encode_samples(
        samples, codec, tokenize, folder, codec_digest=dvae, text_digest=texts, sample_rate=RATE, progress=False,
        processes=processes,
    )  # fmt: skip


def test_each_recording_is_encoded_once(samples, tmp_path):
    codec = FakeCodec()
    encoded, made = encode(samples, tmp_path / "set", codec)
    assert made == 3
    assert codec.encoded == [RATE, RATE + 100, RATE + 200]
    for sample, original in zip(encoded, samples, strict=True):
        number = int(original.audio_file[-5])
        assert sample.encoded.wav_length == RATE + 100 * number
        assert torch.equal(sample.encoded.codes(), torch.full((22,), (RATE + 100 * number) % 1000))
        assert sample.encoded.ids().tolist() == tokenize(original.text, "am")
        assert sample.encoded.has_ids
        assert replace(sample, encoded=None) == original
    again = FakeCodec()
    (tmp_path / "set" / ".lock").unlink()
    known, made = encode(samples, tmp_path / "set", again)
    assert (list(known), made) == (list(encoded), 0)
    assert again.encoded == []
    # A complete set is not written to, so it may be on a read-only disk.
    assert not (tmp_path / "set" / ".lock").exists()


def test_a_changed_file_is_encoded_again_and_a_renamed_one_is_not(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    save_wav(samples[0].audio_file, torch.linspace(-0.5, 0.5, 2 * RATE), RATE)
    samples[0] = replace(samples[0], audio_digest=measure_recording(samples[0].audio_file).digest)
    renamed = tmp_path / "renamed.wav"
    (tmp_path / "ድምፅ 1" / "1.wav").rename(renamed)
    samples[1] = replace(samples[1], audio_file=str(renamed))
    codec = FakeCodec()
    encoded, made = encode(samples, tmp_path / "set", codec)
    assert (made, codec.encoded) == (1, [2 * RATE])
    assert [sample.encoded.wav_length for sample in encoded] == [2 * RATE, RATE + 100, RATE + 200, RATE + 200]
    assert encoded[1].audio_file == str(renamed)


def test_another_text_for_a_recording_reuses_its_codes(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    codec = FakeCodec()
    encoded, made = encode([replace(samples[0], text="new")], tmp_path / "set", codec)
    assert (made, codec.encoded) == (0, [])
    assert encoded[0].encoded.ids().tolist() == tokenize("new", "am")
    assert torch.equal(encoded[0].encoded.codes(), torch.full((22,), RATE % 1000))


def test_another_vocabulary_reuses_codes(samples, tmp_path):
    first, _ = encode(samples, tmp_path / "set", FakeCodec())
    codec = FakeCodec()
    encoded, made = encode_samples(
        samples, codec, lambda text, language: [7, *map(ord, text)], tmp_path / "set",
        codec_digest="D", text_digest="other", sample_rate=RATE, progress=False,
    )  # fmt: skip
    assert (made, codec.encoded) == (0, [])
    assert [sample.encoded.ids().tolist() for sample in encoded] == [[7, ord(text)] for text in ("ሀ", "b", "c", "d")]
    assert [sample.encoded.codes()[0] for sample in encoded] == [50, 150, 250, 250]
    # The rows of the first vocabulary are still there.
    known, made = encode(samples, tmp_path / "set", FakeCodec())
    assert (list(known), made) == (list(first), 0)


def test_an_interrupted_set_is_continued(samples, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(samples, tmp_path / "set", FakeCodec(fail_at=2))
    codec = FakeCodec()
    encoded, made = encode(samples, tmp_path / "set", codec)
    assert (made, codec.encoded) == (1, [RATE + 200])
    assert [sample.encoded.codes()[0] for sample in encoded] == [50, 150, 250, 250]


def test_an_interruption_after_a_part_is_listed_does_not_add_it_twice(samples, tmp_path, monkeypatch):
    add_part, listed = codes.add_part, []

    def add_and_interrupt(*args):
        add_part(*args)
        listed.append(args)
        if len(listed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(codes, "_ROWS_IN_PART", 1)
    monkeypatch.setattr(codes, "add_part", add_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        encode(samples, tmp_path / "set", FakeCodec())
    parts = read_index(tmp_path / "set")["parts"]
    assert [(part["file"], part["rows"]) for part in parts] == [("part-00000.arrow", 1), ("part-00001.arrow", 1)]
    encode(samples, tmp_path / "set", codec := FakeCodec())
    assert codec.encoded == [RATE + 200]
    assert [part["rows"] for part in read_index(tmp_path / "set")["parts"]] == [1, 1, 2]


def test_a_damaged_part_is_encoded_again(samples, tmp_path, caplog):
    encode(samples, tmp_path / "set", FakeCodec())
    part = tmp_path / "set" / read_index(tmp_path / "set")["parts"][0]["file"]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    codec = FakeCodec()
    with caplog.at_level("WARNING", "trainer"):
        encoded, made = encode(samples, tmp_path / "set", codec)
    assert made == 3
    assert f"{part} is damaged. Encoding its utterances again (4 in total)." in caplog.text
    assert [sample.encoded.codes()[0] for sample in encoded] == [50, 150, 250, 250]


def test_parts_are_listed_in_a_journal_until_the_set_is_complete(samples, tmp_path, monkeypatch):
    """A part costs the same however many there are, and a killed process loses only its unfinished part."""
    monkeypatch.setattr(codes, "_ROWS_IN_PART", 1)
    written, listed = [], []
    write_index = encoded_module.write_index
    monkeypatch.setattr(encoded_module, "write_index", lambda *given: (written.append(1), write_index(*given)))

    class Codec(FakeCodec):
        def __call__(self, wav):
            listed.append([part["rows"] for part in read_index(tmp_path / "set")["parts"]])
            return super().__call__(wav)

    encode(samples, tmp_path / "set", Codec())
    assert listed == [[], [1], [1, 1]]
    # When the set is created and when it is complete.
    assert len(written) == 2
    assert [part["rows"] for part in read_index(tmp_path / "set")["parts"]] == [1, 1, 2]
    assert not list((tmp_path / "set").glob(".parts-*"))


def test_half_a_line_in_a_journal_is_skipped(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "_ROWS_IN_PART", 1)
    monkeypatch.setattr(codes, "join_parts", lambda *given: None)
    encode(samples[:2], tmp_path / "set", FakeCodec())
    journal = tmp_path / "set" / ".parts-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    codec = FakeCodec()
    encode(samples, tmp_path / "set", codec)
    assert codec.encoded == [RATE + 100, RATE + 200]
    monkeypatch.undo()
    assert encode(samples, tmp_path / "set", FakeCodec())[1] == 0
    assert [part["rows"] for part in read_index(tmp_path / "set")["parts"]] == [1, 1, 2]


def test_two_processes_divide_the_recordings(samples, tmp_path):
    """Threads stand in for the processes. The result is the same as that of one process."""
    processes, codecs, made = two_processes(), [FakeCodec(), FakeCodec()], []
    threads = [
        threading.Thread(target=lambda *pair: made.append(encode(samples, tmp_path / "two", *pair)[1]), args=pair)
        for pair in zip(codecs, processes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [3, 3]
    assert sorted(codecs[0].encoded + codecs[1].encoded) == [RATE, RATE + 100, RATE + 200]
    assert all(codec.encoded for codec in codecs)
    one, two = (encode(samples, tmp_path / name, FakeCodec())[0] for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.encoded.codes(), second.encoded.codes())
        assert torch.equal(first.encoded.ids(), second.encoded.ids())
    assert not list((tmp_path / "two").glob(".parts-*"))


def test_unchecked_samples_are_rejected(samples, tmp_path):
    with pytest.raises(DataError, match=r"2\.wav has not been checked"):
        encode([*samples[:2], replace(samples[2], audio_digest=None)], tmp_path / "set", FakeCodec())
    assert not (tmp_path / "set").exists()


def test_folders_with_other_content(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    with pytest.raises(ConfigError, match="created with different settings: the DVAE changed"):
        encode(samples, tmp_path / "set", FakeCodec(), dvae="other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="mine exists but is not a set of encoded utterances"):
        encode(samples, tmp_path / "mine", FakeCodec())


def test_a_partly_written_index_is_ignored(samples, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".set.json.4711.tmp").write_text("{")
    assert encode(samples, tmp_path / "set", FakeCodec())[1] == 3


def test_a_damaged_index_is_named(samples, tmp_path):
    encode(samples, tmp_path / "set", FakeCodec())
    (tmp_path / "set" / "set.json").write_text('{"version": 2, "par')
    with pytest.raises(DataError, match=r"set\.json is damaged\. Delete its folder and create the set again"):
        encode(samples, tmp_path / "set", FakeCodec())


def test_a_folder_that_cannot_be_written_to(samples, tmp_path, monkeypatch):
    def refuse(self, timeout=None):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(MachineError, match=r"Cannot write to .*set: Read-only file system"):
        encode(samples, tmp_path / "set", FakeCodec())


def test_concurrent_calls_encode_each_recording_once(samples, tmp_path):
    for number in range(20):
        folder, codecs, made = tmp_path / f"set {number}", [FakeCodec(), FakeCodec()], []
        barrier = threading.Barrier(2)

        def run(codec, barrier=barrier, folder=folder, made=made):
            barrier.wait()
            made.append(encode(samples, folder, codec)[1])

        threads = [threading.Thread(target=run, args=(codec,)) for codec in codecs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [0, 3]
        assert sum(len(codec.encoded) for codec in codecs) == 3


def test_a_second_process_waits_and_reuses_the_codes(samples, tmp_path, caplog):
    with caplog.at_level("INFO", "trainer"):
        encode(samples[:1], tmp_path / "set", FakeCodec())
        assert "Waiting" not in caplog.text
        second, codec = [], FakeCodec()
        waiting = threading.Thread(target=lambda: second.extend(encode(samples, tmp_path / "set", codec)))
        with FileLock(tmp_path / "set" / ".lock"):
            waiting.start()
            waiting.join(0.5)
            assert waiting.is_alive()
        waiting.join(30)
    assert "Another process is adding codes to" in caplog.text
    assert second[1] == 2
    assert codec.encoded == [RATE + 100, RATE + 200]


def test_a_missing_recording_is_named(samples, tmp_path):
    (tmp_path / "ድምፅ 1" / "1.wav").unlink()
    with pytest.raises(DataError, match=r"1\.wav: no such file"):
        encode(samples, tmp_path / "set", FakeCodec())
    # The utterances before it are kept.
    assert read_index(tmp_path / "set")["parts"][0]["rows"] == 1


def test_codes_equal_those_of_stock_without_padding(corpus, tmp_path):
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
        # The receptive field of the convolutions is a few codes, so padding only changes the end.
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
    # A folder with other files is not written to.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit) as caught:
        main(["encode", *[str(tmp_path / "mine") if part == flags[7] else part for part in flags]])
    assert caught.value.code == 2
    assert "mine exists but is not a set" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    # The text cannot be tokenized without the tag of its language.
    del flags[4:6]
    with pytest.raises(SystemExit) as caught:
        main(["encode", *flags])
    assert caught.value.code == 2
    assert "no tag [am]" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_uses_the_codes_of_encode(corpus, recipe, tmp_path, capsys, caplog):
    codes = tmp_path / "am codes"
    flags = ["--manifest", f"{corpus.train}:am", "--base-dir", str(corpus.base), "--vocab", str(corpus.vocab)]
    assert main(["encode", *flags, "--output", str(codes)]) == 0
    before = {file.name: file.read_bytes() for file in codes.iterdir()}
    flags_of_run = {"output_dir": tmp_path / "runs", "val_manifest": None, "max_steps": 2}
    with caplog.at_level("INFO", "trainer"):
        recipe(corpus.flags(codes=codes, **flags_of_run))
        assert " > Encoded " not in caplog.text
        assert {file.name: file.read_bytes() for file in codes.iterdir()} == before
        assert not (tmp_path / "runs" / ".codes").exists()
        # A resumed run remembers the folder, and creates it if it is missing.
        shutil.rmtree(codes)
        run = only_run(tmp_path / "runs")
        recipe(["--checkpoint", str(run), "--max-steps", "4"])
        assert f" > Number of newly encoded recordings: 12. Their codes were saved in {codes}." in caplog.text
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8")
    # The run is the same if the codes are not created in advance.
    recipe(corpus.flags(codes=None, **flags_of_run | {"output_dir": tmp_path / "other", "max_steps": 4}))
    assert (only_run(tmp_path / "other") / "metrics.jsonl").read_text(encoding="utf-8") == lines
    # A set of codes is not a manifest.
    with pytest.raises(SystemExit) as caught:
        recipe(corpus.flags(train_manifest=codes, output_dir=tmp_path / "runs", val_manifest=None))
    assert caught.value.code == 2
    assert "contains the cached codes of recordings, not a replay set. Pass it with --codes" in capsys.readouterr().err
