"""Files that torch.save did not write are identified in the error; safetensors and old PyTorch files are read."""

import io
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xtts_extend import inspect_checkpoint
from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.checkpoint.integrity import require_intact
from xtts_extend.errors import CheckpointError, DamagedError

WEIGHTS = {
    "gpt.text_embedding.weight": torch.arange(6.0).reshape(3, 2),
    "gpt.gpt.h.0.ln_1.weight": torch.ones(2, dtype=torch.bfloat16),
    "gpt.scale": torch.tensor(3),
}
MOMENTS = {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"params": [0]}]}


def make_zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def make_legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.pth"))
    return buffer.getvalue()


def make_torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def make_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(1))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", DamagedError, "it is empty (0 bytes)"),
        (bytes(600), DamagedError, "begins with null bytes"),
        (
            b"<!DOCTYPE html>\n<html>",
            CheckpointError,
            "a web page; the download may have failed, or it may require a login",
        ),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", CheckpointError, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", CheckpointError, "Git LFS pointer, not the file itself"),
        (b"/annex/objects/MD5E-s3", CheckpointError, "Run `git annex get`"),
        (b'{"error": "Not found"}', CheckpointError, """text that begins with '{"error": "Not found"}'"""),
        (b"\x1f\x8b\x08\x00", CheckpointError, "a gzip archive. Unpack it"),
        (b"7z\xbc\xaf\x27\x1c", CheckpointError, "a 7-Zip archive. Unpack it"),
        (make_tar(), CheckpointError, "a tar archive. Unpack it"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", CheckpointError, "an ONNX file, which is for inference only"),
        (b"GGUF\x03\x00", CheckpointError, "a GGUF file"),
        (pickle.dumps({"a": np.zeros(1)}), CheckpointError, "a bare pickle, not written by torch.save"),
        (make_zip(**{"XTTS/model.pth": b"a", "XTTS/b": b""}), CheckpointError, "contains XTTS/model.pth. Unpack it"),
        (make_zip(**{"b.txt": b"a"}), CheckpointError, "a zip archive (b.txt) that was not written by torch.save"),
        (make_zip(), CheckpointError, "a zip archive (empty) that was not written by torch.save"),
        (make_npz(), CheckpointError, "a NumPy archive (npz)"),
        (make_torchscript(), CheckpointError, "is a TorchScript file, which contains a program and its weights"),
        (make_legacy({"model": WEIGHTS})[:-9], DamagedError, "it is damaged"),
    ],
    ids=[
        "empty",
        "zeros",
        "web page",
        "xml",
        "LFS",
        "annex",
        "json",
        "gzip",
        "7-Zip",
        "tar",
        "ONNX",
        "GGUF",
        "pickle",
        "zip of a folder",
        "zip",
        "empty zip",
        "npz",
        "TorchScript",
        "old and truncated",
    ],
)
def test_other_files_are_identified(tmp_path, content, kind, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        inspect_checkpoint(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_safetensors_are_read(tmp_path, device):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    found = load_pickled(tmp_path / "model.safetensors", map_location=device)
    assert {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in found.items()} == {
        name: (tensor.shape, tensor.dtype, device) for name, tensor in WEIGHTS.items()
    }
    if device == "cpu":
        assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())
    info = inspect_checkpoint(tmp_path / "model.safetensors")
    assert (info.kind, info.vocab_size, info.architecture.layers) == ("base", 3, 1)


def test_safetensors_without_a_model(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"found: a\)\. It is one of several shards\. Merge them"):
        inspect_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    content = (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(content[:-1])
    with pytest.raises(DamagedError, match="is damaged"):
        inspect_checkpoint(tmp_path / "truncated.safetensors")


def test_files_from_before_pytorch_1_6_are_read(tmp_path, caplog):
    path = tmp_path / "checkpoint_7.pth"
    path.write_bytes(make_legacy({"model": WEIGHTS, "optimizer": [MOMENTS], "step": torch.tensor(7), "epoch": 1}))
    info = inspect_checkpoint(path)
    assert (info.kind, info.step, info.vocab_size) == ("training", 7, 3)
    assert torch.equal(
        load_pickled(path, map_location="cpu")["model"]["gpt.text_embedding.weight"],
        WEIGHTS["gpt.text_embedding.weight"],
    )
    require_intact(path)
    assert "was written by a PyTorch version older than 1.6, whose format has no checksums" in caplog.text


class _Malicious:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_files_from_before_pytorch_1_6_run_no_code_either(tmp_path):
    (tmp_path / "a.pth").write_bytes(make_legacy({"a": _Malicious()}))
    with pytest.raises(CheckpointError, match=r"would run code when loaded \(eval\)\. It was rejected"):
        load_pickled(tmp_path / "a.pth", map_location="cpu")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["zero_to_fp32.py", "latest"], "a sharded DeepSpeed checkpoint\\. .* `python zero_to_fp32.py"),
        (["__0_0.distcp", ".metadata"], "a sharded torch.distributed checkpoint\\. .* dcp_to_torch"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "contains a model in 2 shards"),
        (["pytorch_model-00001-of-00009.bin"], "contains a model in 1 shard "),
        (["data.pkl", "version"], "an unpacked torch.save archive"),
        (["config.json", "model.safetensors"], r"It contains model\.safetensors\. Pass the file that you want to use"),
        (["G_100.pth", "D_100.pth", "E.pth", "F.pth"], r"D_100\.pth, E\.pth, F\.pth, and 1 more\. Pass the file"),
        (["config.json"], "Pass one of these, or a checkpoint file.$"),
    ],
    ids=["DeepSpeed", "distributed", "safetensors", "Hugging Face", "unpacked", "one file", "others", "none"],
)
def test_other_folders_are_identified(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(tmp_path)
