"""Identify files and folders that are not torch.save checkpoints, say what to do, and read safetensors files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xtts_extend.errors import CheckpointError, DamagedError

_COPY = "Copy or download it again."
#: First bytes of files that are passed as checkpoints by mistake → what the file is, and what to do.
_BEGINNINGS = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Run `git lfs pull` in its repository."),
    b"/annex/objects/": ("a git-annex pointer, not the file itself", "Run `git annex get` in its repository."),
    b"\x1f\x8b": ("a gzip archive", "Unpack it and pass the file inside."),
    b"BZh": ("a bzip2 archive", "Unpack it and pass the file inside."),
    b"\xfd7zXZ": ("an xz archive", "Unpack it and pass the file inside."),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "Unpack it and pass the file inside."),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "Unpack it and pass the file inside."),
    b"Rar!": ("a RAR archive", "Unpack it and pass the file inside."),
    b"GGUF": ("a GGUF file, which contains weights quantized for llama.cpp", "Pass the file it was made from."),
    b"\x89HDF": ("an HDF5 file, as written by Keras", "Pass the PyTorch file it was made from."),
    b"\x93NUMPY": ("a NumPy array", "Pass a checkpoint written by torch.save."),
    b"RIFF": ("a WAV recording", "Pass a checkpoint written by torch.save."),
    b"%PDF": ("a PDF", "Pass a checkpoint written by torch.save."),
}
#: Offset and content of the signature of a tar archive.
_TAR = (257, b"ustar")
#: Magic number in the pickle at the start of files written by PyTorch versions before 1.6.
_LEGACY = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")


def is_legacy(start: bytes) -> bool:
    """Return whether a file with these first bytes was written by a PyTorch version before 1.6, without checksums."""
    return _LEGACY in start[:32]


def is_safetensors(path: Path, start: bytes) -> bool:
    """Return whether a file with these first bytes is a safetensors file, which begins with the length of its header.

    Args:
        path: The file, whose size is compared with the header's length.
        start: The file's first bytes.
    """
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8


def not_an_archive_error(path: Path, start: bytes) -> CheckpointError:
    """Return the error for a file that this package cannot read.

    Args:
        path: A file that is neither a zip archive nor a safetensors file, nor written by a PyTorch version before 1.6.
        start: The file's first bytes.
    """
    refused = f"{path} cannot be opened: it is"
    if not start:
        return DamagedError(f"{refused} empty (0 bytes). {_COPY}")
    if not start.strip(b"\0"):
        return DamagedError(
            f"{path} cannot be opened: it begins with null bytes, which can happen after a power loss or an unfinished "
            f"download. {_COPY}"
        )
    if start.startswith(b"PK"):
        return DamagedError(f"{refused} truncated (the end of the archive is missing). {_COPY}")
    for beginning, (what, next_step) in _BEGINNINGS.items():
        if start.startswith(beginning):
            return CheckpointError(f"{refused} {what}. {next_step}")
    if start[_TAR[0] :].startswith(_TAR[1]):
        return CheckpointError(f"{refused} a tar archive. Unpack it and pass the file inside.")
    if start.startswith(b"\x08") and (b"onnx" in start.lower() or b"pytorch" in start[:64].lower()):
        return CheckpointError(
            f"{refused} an ONNX file, which is for inference only. Pass the checkpoint it was exported from."
        )
    if start.startswith(b"\x80"):
        return CheckpointError(
            f"{refused} a bare pickle, not written by torch.save. If you trust its author (a pickle can run arbitrary "
            f"code), save it as a checkpoint: python -c \"import pickle, torch; torch.save(pickle.load(open('{path}', "
            "'rb')), 'new.pth')\""
        )
    return CheckpointError(f"{refused} not a checkpoint{_describe_text(start)}. Pass a file written by torch.save.")


def _describe_text(start: bytes) -> str:
    """Return the rest of a sentence that describes a text file, or an empty string for binary data."""
    # "ignore" drops the last character if `start` contains only part of it.
    text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore").strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return ""
    if text[:5].lower() in ("<!doc", "<html", "<?xml") or "<head" in text.lower():
        return " but a web page; the download may have failed, or it may require a login"
    return f" but text that begins with {text.splitlines()[0][:50]!r}"


def require_pickled_archive(path: Path) -> None:
    """Raise unless a zip archive was written by torch.save.

    Raises:
        CheckpointError: The archive was not written by torch.save. The message says what it is and what to do.
        DamagedError: The archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError) as error:
        raise DamagedError(f"{path} cannot be opened: it is a damaged zip archive ({error}). {_COPY}") from error
    file_names = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in file_names:
        raise CheckpointError(
            f"{path} is a TorchScript file, which contains a program and its weights. If you trust its author (loading "
            f"it can run code), extract the weights: python -c \"import torch; torch.save(torch.jit.load('{path}', "
            "map_location='cpu').state_dict(), 'new.pth')\""
        )
    if "data.pkl" in file_names:
        return
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path} is a NumPy archive (npz). Pass a checkpoint written by torch.save.")
    if inside := [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]:
        raise CheckpointError(
            f"{path} is a zip archive that contains {_first(inside)}. Unpack it and pass the file inside."
        )
    raise CheckpointError(
        f"{path} cannot be opened: it is a zip archive ({_first(names) or 'empty'}) that was not written by "
        "torch.save. Pass a checkpoint written by torch.save."
    )


def folder_without_model(folder: Path) -> str:
    """Describe a folder that contains neither a run nor a `model.pth`, and say how to use it.

    Returns:
        Sentences preceded by a space, or an empty string if nothing is known about the folder.
    """
    names = sorted(os.listdir(folder))
    suffixes = {name: Path(name).suffix for name in names}
    if "zero_to_fp32.py" in names or any(name.endswith("_optim_states.pt") for name in names):
        return (
            " It is a sharded DeepSpeed checkpoint. Merge the shards with the script in that folder, `python "
            "zero_to_fp32.py . model.pth`, and pass model.pth."
        )
    if ".distcp" in suffixes.values():
        return (
            " It is a sharded torch.distributed checkpoint. Merge the shards with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pth`, and pass model.pth."
        )
    if shards := [name for name in names if "-of-0" in name]:
        return (
            f" It contains a model in {len(shards)} {'shards' if len(shards) > 1 else 'shard'} ({_first(shards)}). "
            f"{_JOIN}"
        )
    if (folder / "data.pkl").is_file() or (folder / "archive" / "data.pkl").is_file():
        return " It is an unpacked torch.save archive. Pass the original file."
    if found := [name for name, end in suffixes.items() if end in (".pth", ".pt", ".ckpt", ".bin", ".safetensors")]:
        return f" It contains {_first(found)}. Pass the file that you want to use."
    return ""


_JOIN = "Merge them with the program that wrote them, for example with save_pretrained(…, max_shard_size='100GB')."


def describe_shard(path: Path) -> str:
    """Return a sentence, preceded by a space, if a file is named like one shard of a model, else an empty string."""
    return f" It is one of several shards. {_JOIN}" if "-of-0" in path.name else ""


def read_safetensors(path: Path, *, map_location: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, keyed by name.

    Args:
        path: The file.
        map_location: "cpu", or "meta" to read shapes and types only.

    Raises:
        DamagedError: The file is truncated or damaged.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if map_location == "cpu":
                return {name: file.get_tensor(name) for name in names}
            parts = {name: file.get_slice(name) for name in names}
            shapes = {name: part.get_shape() for name, part in parts.items()}
            return {
                name: torch.empty(
                    shape, dtype=(parts[name][:0] if shape else file.get_tensor(name)).dtype, device="meta"
                )
                for name, shape in shapes.items()
            }
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is damaged: {error}. {_COPY}") from error


def _first(names: Sequence[str]) -> str:
    """List the first three names, and say how many more there are."""
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
