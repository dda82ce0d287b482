"""File names of a run's checkpoints."""

from pathlib import Path

import pytest

from xtts_extend.checkpoint.names import CheckpointName, named_checkpoints, parse_name


@pytest.mark.parametrize(
    "name",
    [CheckpointName("checkpoint", 0), CheckpointName("checkpoint", 17000), CheckpointName("best_model", 250)],
    ids=str,
)
def test_a_name_is_parsed_as_it_is_written(name):
    assert parse_name(Path("runs") / "am[v2]" / str(name)) == name


@pytest.mark.parametrize(
    "file",
    [
        "best_model.pth",
        "model.pth",
        "checkpoint_.pth",
        "checkpoint_-1.pth",
        "checkpoint_8_2.pth",
        "checkpoint_8.pth.bak",
        "checkpoint_8.pt",
        "checkpoint_8xpth",
        ".checkpoint_8.pth.tmp",
        "my_checkpoint_8.pth",
        "checkpoint_8.pth/optimizer",
    ],
)
def test_other_names_are_not_checkpoint_names(file):
    assert parse_name(Path(file)) is None


def test_checkpoints_in_a_folder(tmp_path):
    for file in ("checkpoint_8.pth", "best_model_4.pth", "best_model.pth", "config.json"):
        (tmp_path / file).touch()
    assert {file.name: name.step for file, name in named_checkpoints(tmp_path)} == {
        "checkpoint_8.pth": 8,
        "best_model_4.pth": 4,
    }
