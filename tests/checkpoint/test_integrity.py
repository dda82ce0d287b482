"""A changed byte is noticed, wherever it is."""

import random

import pytest
import torch
from checkpoints import cut, flip_a_bit
from test_inspect import training

from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.errors import CheckpointError


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "checkpoint_20.pth"
    torch.save({**training(20), "ballast": torch.arange(50_000.0)}, path)
    return path


def test_what_was_written_is_sound(sound):
    require_intact(sound)
    assert inspect_checkpoint(sound, verify=True).step == 20


def test_every_flipped_bit_of_a_tensor_is_noticed(sound):
    content = sound.read_bytes()
    start = content.index(torch.arange(100.0).numpy().tobytes())
    generator = random.Random(0)
    for _ in range(50):
        position, bit = generator.randrange(start, start + 200_000), generator.randrange(8)
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        sound.write_bytes(changed)
        with pytest.raises(CheckpointError, match="1 of .* records are not what was written"):
            require_intact(sound)


def test_any_flipped_byte_is_noticed_or_does_no_harm(sound):
    """Padding and times between the records mean nothing; everything else is noticed on the way in."""
    content = sound.read_bytes()
    plain = torch.load(sound, weights_only=True)
    generator = random.Random(1)
    noticed = 0
    for _ in range(100):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 255
        sound.write_bytes(changed)
        try:
            inspect_checkpoint(sound, verify=True)
        except CheckpointError:
            noticed += 1
        else:
            loaded = torch.load(sound, weights_only=True)
            assert torch.equal(loaded["ballast"], plain["ballast"])
            assert loaded["step"] == 20
    assert noticed > 80


LOCAL, DIRECTORY, END = b"PK\3\4", b"PK\1\2", b"PK\6\6"


@pytest.mark.parametrize(
    ("part", "offset", "bits"),
    [
        pytest.param(LOCAL, 0, 1, id="magic number of a record"),
        pytest.param(LOCAL, 26, 1, id="length of a record's name"),
        pytest.param(LOCAL, 30, 1, id="name of a record"),
        pytest.param(DIRECTORY, 6, 0xFF, id="version of zip"),
        pytest.param(DIRECTORY, 8, 1, id="encrypted"),
        pytest.param(DIRECTORY, 8, 0x20, id="patched"),
        pytest.param(DIRECTORY, 10, 8, id="deflated"),
        pytest.param(DIRECTORY, 16, 1, id="checksum"),
        pytest.param(DIRECTORY, 24, 1, id="size"),
        pytest.param(DIRECTORY, 45, 0xFF, id="start beyond the end"),
        pytest.param(DIRECTORY, 46, 0x80, id="name that is no text"),
        pytest.param(END, 48, 1, id="start of the directory"),
        pytest.param(END, 55, 0xFF, id="start of the directory beyond all bounds"),
    ],
)
def test_damage_to_what_says_where_the_records_are(sound, part, offset, bits):
    content = bytearray(sound.read_bytes())
    content[content.index(part) + offset] ^= bits
    sound.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        require_intact(sound)


@pytest.mark.parametrize("size", [0, 10, 1000, 100_000])
def test_truncated(sound, size):
    cut(sound, size)
    with pytest.raises(CheckpointError, match="is damaged"):
        require_intact(sound)


def test_a_run_passes_over_a_flipped_bit_and_a_named_file_names_the_sound_one(sound, tmp_path, caplog):
    later = tmp_path / "checkpoint_30.pth"
    torch.save({**training(30), "ballast": torch.arange(50_000.0)}, later)
    flip_a_bit(later)
    assert inspect_checkpoint(tmp_path).step == 30, "the header says nothing of it"
    assert inspect_checkpoint(tmp_path, verify=True).step == 20
    assert "passed over" in caplog.text
    assert "checkpoint_30.pth is damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoint_30\.pth is damaged.* beside it is .*checkpoint_20\.pth"):
        inspect_checkpoint(later, verify=True)
    flip_a_bit(sound)
    with pytest.raises(CheckpointError, match="no checkpoint that can be resumed"):
        inspect_checkpoint(tmp_path, verify=True)
