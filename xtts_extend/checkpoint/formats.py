"""What a file or folder is that holds no checkpoint as torch.save writes it, in words, with the way out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xtts_extend.errors import CheckpointError, DamagedError

_COPY = "Copy or download it again."
#: How files begin that are saved or given as checkpoints by mistake: what they are, and what to do.
_BEGINNINGS = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Run `git lfs pull` where it comes from."),
    b"/annex/objects/": ("a git-annex pointer, not the file itself", "Run `git annex get` where it comes from."),
    b"\x1f\x8b": ("a gzip archive", "Unpack it, and give what is in it."),
    b"BZh": ("a bzip2 archive", "Unpack it, and give what is in it."),
    b"\xfd7zXZ": ("an xz archive", "Unpack it, and give what is in it."),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "Unpack it, and give what is in it."),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "Unpack it, and give what is in it."),
    b"Rar!": ("a RAR archive", "Unpack it, and give what is in it."),
    b"GGUF": ("a GGUF file, whose weights are quantised for llama.cpp", "Give the file that it was made from."),
    b"\x89HDF": ("an HDF5 file, as Keras writes it", "Give the file of torch that it was made from."),
    b"\x93NUMPY": ("a NumPy array", "Give a checkpoint that torch.save wrote."),
    b"RIFF": ("a recording (wav)", "Give a checkpoint that torch.save wrote."),
    b"%PDF": ("a PDF", "Give a checkpoint that torch.save wrote."),
}
_TAR = (257, b"ustar")
#: The number that files of torch before 1.6 begin with, inside of a pickle.
_LEGACY = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")


def is_legacy(start: bytes) -> bool:
    """Whether a file that begins so is one of torch before 1.6: pickles one after the other, without checksums."""
    return _LEGACY in start[:32]


def is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file that begins so is one of safetensors: the length of a header, and the header as JSON."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8


def not_an_archive_error(path: Path, start: bytes) -> CheckpointError:
    """The error for a file that is no zip archive, nor a file of torch before 1.6, nor one of safetensors."""
    refused = f"{path} cannot be opened: it is"
    if not start:
        return DamagedError(f"{refused} empty (0 bytes). {_COPY}")
    if not start.strip(b"\0"):
        return DamagedError(
            f"{refused} a file that begins with zeros, as after a loss of power or in an unfinished download. {_COPY}"
        )
    if start.startswith(b"PK"):
        return DamagedError(f"{refused} truncated (the end of the archive is missing). {_COPY}")
    for beginning, (what, next_step) in _BEGINNINGS.items():
        if start.startswith(beginning):
            return CheckpointError(f"{refused} {what}. {next_step}")
    if start[_TAR[0] :].startswith(_TAR[1]):
        return CheckpointError(f"{refused} a tar archive. Unpack it, and give what is in it.")
    if start.startswith(b"\x08") and (b"onnx" in start.lower() or b"pytorch" in start[:64].lower()):
        return CheckpointError(
            f"{refused} an ONNX file, which is for inference alone. Give the checkpoint that it was exported from."
        )
    if start.startswith(b"\x80"):
        return CheckpointError(
            f"{refused} a bare pickle, which torch.save did not write. If you trust who made it (a pickle can run any "
            f"code), save it as a checkpoint: python -c \"import pickle, torch; torch.save(pickle.load(open('{path}', "
            "'rb')), 'new.pth')\""
        )
    return CheckpointError(f"{refused} not a checkpoint{_as_text(start)}. Give a file that torch.save wrote.")


def _as_text(start: bytes) -> str:
    """What a file that begins with text is."""
    # a character that the beginning cuts off is left out
    text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore").strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return ""
    if text[:5].lower() in ("<!doc", "<html", "<?xml") or "<head" in text.lower():
        return ", but a web page: the download may have failed, or need a login"
    return f", but text that begins with {text.splitlines()[0][:50]!r}"


def require_pickled_archive(path: Path) -> None:
    """Tell archives of torch.save from other zip archives.

    Raises:
        CheckpointError: it is another one; what it is, and what to do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError) as error:
        raise DamagedError(f"{path} cannot be opened: it is a damaged zip archive ({error}). {_COPY}") from error
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        raise CheckpointError(
            f"{path} is a TorchScript file: a program with its weights. If you trust who made it (loading it can run "
            f"its code), take the weights out: python -c \"import torch; torch.save(torch.jit.load('{path}', "
            "map_location='cpu').state_dict(), 'new.pth')\""
        )
    if "data.pkl" in ends:
        return
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path} is a NumPy archive (npz). Give a checkpoint that torch.save wrote.")
    if inside := [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]:
        raise CheckpointError(f"{path} is a zip archive that holds {_first(inside)}. Unpack it, and give that file.")
    raise CheckpointError(
        f"{path} cannot be opened: it is a zip archive ({_first(names) or 'empty'}) that torch.save did not write. "
        "Give a checkpoint that it wrote."
    )


def folder_without_model(folder: Path) -> str:
    """What a folder is that holds neither a run nor a `model.pth`, as a sentence with the way out; or nothing."""
    names = sorted(os.listdir(folder))
    ends = {name: Path(name).suffix for name in names}
    if "zero_to_fp32.py" in names or any(name.endswith("_optim_states.pt") for name in names):
        return (
            " It is a checkpoint of DeepSpeed in shards: join them with the script that lies in it, "
            "`python zero_to_fp32.py . model.pth`, and give that file."
        )
    if ".distcp" in ends.values():
        return (
            " It is a distributed checkpoint of torch in shards: join them with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pth`, and give that file."
        )
    if shards := [name for name in names if "-of-0" in name]:
        return (
            f" It holds a model in {len(shards)} {'shards' if len(shards) > 1 else 'shard'} ({_first(shards)}). {_JOIN}"
        )
    if (folder / "data.pkl").is_file() or (folder / "archive" / "data.pkl").is_file():
        return " It is an unpacked file of torch.save: give the file as it was before it was unpacked."
    if found := [name for name, end in ends.items() if end in (".pth", ".pt", ".ckpt", ".bin", ".safetensors")]:
        return f" It holds {_first(found)}: give the file that is meant."
    return ""


_JOIN = "Join them where they were written, with save_pretrained(…, max_shard_size='100GB') for example."


def describe_shard(path: Path) -> str:
    """That a file is one shard of a model by its name, as a sentence; or nothing."""
    return f" It is one of several shards. {_JOIN}" if "-of-0" in path.name else ""


def read_safetensors(path: Path, *, map_location: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU or, without their values, on the meta device.

    Raises:
        DamagedError: it is no whole file of safetensors.
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
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
