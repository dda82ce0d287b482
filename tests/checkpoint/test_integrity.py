"""A changed byte is detected wherever it is."""

import random

import pytest
import torch
from checkpoints import cut, flip_a_bit
from test_inspect import training

from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.errors import CheckpointError


@pytest.fixture
def intact(tmp_path):
    path = tmp_path / "checkpoint_20.pth"
    torch.save({**training(20), "ballast": torch.arange(50_000.0)}, path)
    return path


def test_an_unchanged_file_is_intact(intact):
    require_intact(intact)
    assert inspect_checkpoint(intact, verify=True).step == 20


def test_every_flipped_bit_of_a_tensor_is_detected(intact):
    content = intact.read_bytes()
    start = content.index(torch.arange(100.0).numpy().tobytes())
    generator = random.Random(0)
    for _ in range(50):
        position, bit = generator.randrange(start, start + 200_000), generator.randrange(8)
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        intact.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged: checksum mismatch in 1 of .* records"):
            require_intact(intact)


def test_any_flipped_byte_is_detected_or_harmless(intact):
    """Padding and timestamps between the records mean nothing; every other change is detected on loading."""
    content = intact.read_bytes()
    plain = torch.load(intact, weights_only=True)
    generator = random.Random(1)
    detected = 0
    for _ in range(100):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 255
        intact.write_bytes(changed)
        try:
            inspect_checkpoint(intact, verify=True)
        except CheckpointError:
            detected += 1
        else:
            loaded = torch.load(intact, weights_only=True)
            assert torch.equal(loaded["ballast"], plain["ballast"])
            assert loaded["step"] == 20
    assert detected > 80


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
def test_damage_to_the_archive_directory(intact, part, offset, bits):
    content = bytearray(intact.read_bytes())
    content[content.index(part) + offset] ^= bits
    intact.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        require_intact(intact)


@pytest.mark.parametrize("size", [0, 10, 1000, 100_000])
def test_truncated(intact, size):
    cut(intact, size)
    with pytest.raises(CheckpointError, match="is damaged"):
        require_intact(intact)


def test_a_run_skips_a_damaged_checkpoint_and_an_error_names_the_intact_one(intact, tmp_path, caplog):
    later = tmp_path / "checkpoint_30.pth"
    torch.save({**training(30), "ballast": torch.arange(50_000.0)}, later)
    flip_a_bit(later)
    assert inspect_checkpoint(tmp_path).step == 30, "the header is intact"
    assert inspect_checkpoint(tmp_path, verify=True).step == 20
    assert "Skipped a checkpoint" in caplog.text
    assert "checkpoint_30.pth is damaged" in caplog.text
    with pytest.raises(
        CheckpointError, match=r"checkpoint_30\.pth is damaged.* in the same folder is .*checkpoint_20\.pth"
    ):
        inspect_checkpoint(later, verify=True)
    flip_a_bit(intact)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        inspect_checkpoint(tmp_path, verify=True)
