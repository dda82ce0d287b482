"""Paths are identified by their content, and no file is executed or written to."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from xtts_extend import inspect_checkpoint
from xtts_extend.checkpoint.inspect import newest_checkpoint
from xtts_extend.errors import CheckpointError


def weights(prefix: str = "xtts.gpt.", rows: int = 30, layers: int = 3) -> dict[str, torch.Tensor]:
    state = {f"{prefix}text_embedding.weight": torch.zeros(rows, 8)}
    for layer in range(layers):
        state[f"{prefix}gpt.h.{layer}.ln_1.weight"] = torch.ones(8)
    return state


def training(step: int = 7) -> dict[str, object]:
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(30, 8)}}
    return {
        "model": weights(),
        "config": {"model_args": {"gpt_n_heads": 2}},
        "optimizer": [{"state": moments, "param_groups": [{"params": [0]}]}],
        "scheduler": [{"last_epoch": 7}],
        "step": step,
        "epoch": 1,
    }


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_a_training_checkpoint(tmp_path):
    info = inspect_checkpoint(save(training(), tmp_path / "any name.pth"))
    assert info.to_dict() == {
        "kind": "training",
        "vocab_size": 30,
        "step": 7,
        "epoch": 1,
        "has_optimizer": True,
        "has_scheduler": True,
        "written_by": "coqui",
        "architecture": {"layers": 3, "channels": 8, "heads": 2},
        "size_bytes": (tmp_path / "any name.pth").stat().st_size,
        "path": str(tmp_path / "any name.pth"),
    }


def test_our_checkpoints_are_recognized(tmp_path):
    assert (
        inspect_checkpoint(save({**training(), "xtts_extend": {"version": 1}}, tmp_path / "a")).written_by
        == "xtts_extend"
    )


@pytest.mark.parametrize(
    "content",
    [
        {"model": weights("gpt.")},
        weights("gpt."),
        {**training(), "optimizer": None},
        {**training(), "optimizer": [{"state": {}, "param_groups": [{"params": [0]}]}]},
        {key: value for key, value in training().items() if key != "step"},
    ],
    ids=["published", "bare", "stripped", "empty optimizer", "no step"],
)
def test_weights_without_a_run_are_a_base_whatever_the_name(tmp_path, content):
    info = inspect_checkpoint(save(content, tmp_path / "checkpoint_17000.pth"))
    assert (info.kind, info.vocab_size, info.architecture.layers) == ("base", 30, 3)


def test_a_published_file_with_old_config_classes_is_read_and_not_written(tmp_path, monkeypatch):
    """The published model.pth pickles an XttsConfig whose args class was in another module."""
    from TTS.tts.configs import xtts_config
    from TTS.tts.models import xtts

    for name in ("XttsArgs", "XttsAudioConfig"):
        monkeypatch.setattr(getattr(xtts_config, name), "__module__", xtts.__name__)
    config = xtts_config.XttsConfig(model_args=xtts_config.XttsArgs(gpt_n_heads=4))
    path = tmp_path / "model.pth"
    torch.save({"config": config, "model": weights("gpt."), "step": 5}, path)
    monkeypatch.undo()
    before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    info = inspect_checkpoint(path)
    assert (info.kind, info.step, info.architecture.heads) == ("base", 5, 4)
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "was run"
    path = save({**training(), "scaler": _Malicious(marker)}, tmp_path / "checkpoint_1.pth")
    with pytest.raises(CheckpointError, match=r"would run code when loaded \(posix\.system\)"):
        inspect_checkpoint(path)
    path.write_bytes(pickle.dumps(_Malicious(marker)))
    with pytest.raises(CheckpointError):
        inspect_checkpoint(path)
    assert not marker.exists()


def truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save(training(), buffer)
    return buffer.getvalue()[:-100]


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (truncated(), "truncated"),
        (b"RIFF....WAVEfmt " * 50, "not a checkpoint|cannot be opened"),
        (plain_zip(), "cannot be opened"),
        (json.dumps({"model": 1}).encode(), "cannot be opened|not a checkpoint"),
    ],
    ids=["empty", "truncated", "wav", "zip", "json"],
)
def test_files_that_are_not_checkpoints(tmp_path, content, message):
    path = tmp_path / "ሞዴል with space.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        inspect_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_tensors_are_not_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="contains no XTTS model.*codebook"):
        inspect_checkpoint(save({"codebook.embed": torch.zeros(3)}, tmp_path / "dvae.pth"))
    with pytest.raises(CheckpointError, match="contains no XTTS model"):
        inspect_checkpoint(save(torch.zeros(80), tmp_path / "mel_stats.pth"))


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="neither a run .* nor a base directory"):
        inspect_checkpoint(tmp_path)


def test_a_run_folder_is_its_newest_intact_checkpoint(tmp_path, caplog):
    save(training(20), tmp_path / "checkpoint_20.pth")
    save(training(30), tmp_path / "best_model_30.pth")
    (tmp_path / "checkpoint_40.pth").write_bytes(truncated())
    save({"model": weights()}, tmp_path / "checkpoint_50.pth")
    assert Path(newest_checkpoint(tmp_path).path).name == "best_model_30.pth"
    for name, reason in (("checkpoint_40.pth", "cannot be opened"), ("checkpoint_50.pth", "no training state")):
        (line,) = [record.getMessage() for record in caplog.records if name in record.getMessage()]
        assert "Skipped a checkpoint" in line
        assert reason in line
    assert inspect_checkpoint(tmp_path).step == 30
    # A run that never improved has no best_model.pth.
    message = r"does not exist.* intact checkpoint in the same folder is .*best_model_30\.pth"
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(tmp_path / "best_model.pth")


def test_the_recorded_step_decides_not_the_number_in_the_name(tmp_path):
    save(training(50), tmp_path / "checkpoint_20.pth")
    save(training(20), tmp_path / "checkpoint_50.pth")
    assert Path(newest_checkpoint(tmp_path).path).name == "checkpoint_20.pth"


def test_a_run_without_an_intact_checkpoint_names_the_damaged_ones(tmp_path):
    (tmp_path / "checkpoint_40.pth").write_bytes(truncated())
    with pytest.raises(CheckpointError, match=r"checkpoint_40\.pth cannot be opened"):
        inspect_checkpoint(tmp_path)
