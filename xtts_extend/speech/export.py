"""Export a run as a model folder with a language pack, as a pack alone, or as merged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from TTS.tts.configs.xtts_config import XttsConfig

from xtts_extend.checkpoint.inspect import load_pickled, loads_in_stock, weights_of
from xtts_extend.errors import ConfigError, PackError
from xtts_extend.files import atomic_folder, atomic_write, copy_file, require_new_folder
from xtts_extend.pack.file import SUFFIX, write_pack
from xtts_extend.pack.model_folder import PACKS, ModelFolder
from xtts_extend.run.config import copy_recorded
from xtts_extend.speech.finished_run import FinishedRun
from xtts_extend.speech.model_card import folder_card, merged_card
from xtts_extend.speech.packing import DTYPES, make_pack

#: Files of a base that every model folder needs, besides `model.pth`.
_REQUIRED = ("config.json", "vocab.json")
#: Files of a base that are copied into a model folder if they exist.
_OPTIONAL = ("speakers_xtts.pth", "dvae.pth", "mel_stats.pth", "LICENSE.txt")
#: Name for the language if the run does not record one.
_UNKNOWN_LANGUAGE = "a fine-tuned language"


def export(
    checkpoint: Path,
    output: Path,
    base_dir: Path | None = None,
    *,
    merged: bool = False,
    rank: int | None = None,
    dtype: str = "float32",
    licence: str = "",
) -> dict[str, Any]:
    """Export a run as a model folder with a language pack, as a pack alone, or as merged weights.

    Args:
        checkpoint: A training checkpoint, or a run folder, whose newest intact checkpoint is exported.
        output: A new or empty folder for the base's files and the language pack, or a new file that ends in
            ".safetensors" for the pack alone.
        base_dir: The base's folder, if it has moved since the run.
        merged: Write one set of weights for all languages instead of a pack. This changes how the old languages sound.
        rank: Rank of the approximation of each matrix's change. None keeps the complete change.
        dtype: Type of the pack's tensors: "float32", "bfloat16" or "float16".
        licence: License of the training recordings, which is written into the pack.

    Returns:
        `checkpoint`, `step`, `language`, `form` ("folder", "pack" or "merged"), `output`, `base_rows`,
        `base_rows_checked` and `size_bytes` (size of `model.pth`, or of the pack if it is exported alone). If there is
        a pack, also `pack_bytes`, `rank` and `dtype`, and if the pack is in a folder, `pack` (its path).

    Raises:
        CheckpointError: There is no intact training checkpoint.
        ConfigError: The output already exists, flags contradict each other, or the base was not found.
        PackError: The run cannot be exported as a pack.
        CheckFailed: The run froze the old rows, but they differ from the base's.
        MachineError: The disk is full, or the output is not writable.

    >>> result = export(Path("runs/RUN"), Path("new.safetensors"), licence="CC0-1.0")
    >>> result["form"], result["language"], result["step"]
    ('pack', 'am', 4)
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank}: expected 1 or more.")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.")
    if merged and (rank is not None or dtype != "float32" or output.suffix == SUFFIX):
        raise ConfigError(
            f"--merged writes a folder with complete weights, but --rank, --dtype and an --output ending in {SUFFIX} "
            "apply only to packs. Omit --merged or these flags."
        )
    if merged and licence:
        raise ConfigError(
            "--licence applies only to language packs, and --merged does not write one. Omit one of the two flags."
        )
    if output.suffix != SUFFIX:
        require_new_folder(output)
    elif output.exists():
        raise ConfigError(f"{output} already exists. Choose a different file, or remove this one first.")
    run = FinishedRun.open(checkpoint, base_dir)
    record = run.checkpoint.record
    result = {
        "checkpoint": str(run.path),
        "step": run.checkpoint.info.step,
        "language": run.language or _UNKNOWN_LANGUAGE,
        "form": "merged" if merged else "pack" if output.suffix == SUFFIX else "folder",
        "output": str(output),
        "base_rows": record.base_rows.rows if record else None,
        "base_rows_checked": run.rows_checked,
    }
    if merged:
        _write_merged(run, output)
        return {**result, "size_bytes": (output / "model.pth").stat().st_size}
    info, tensors = make_pack(run, rank=rank, dtype=dtype, licence=licence)
    precision = {"rank": info.rank, "dtype": dtype}
    if output.suffix == SUFFIX:
        size = write_pack(output, info, tensors).size_bytes
        return {**result, "size_bytes": size, "pack_bytes": size, **precision}
    with atomic_folder(output) as folder:
        _copy_base(run, folder)
        written = write_pack(folder / PACKS / f"{info.language}{SUFFIX}", info, tensors)
        pack = ModelFolder(folder).add(written.path)
        (folder / "README.md").write_text(folder_card(pack.info), encoding="utf-8")
    return {
        **result,
        "size_bytes": (output / "model.pth").stat().st_size,
        "pack": str(output / PACKS / pack.path.name),
        "pack_bytes": (output / PACKS / pack.path.name).stat().st_size,
        **precision,
    }


def _copy_base(run: FinishedRun, folder: Path) -> None:
    """Copy the base's files, not links to them, because stock coqui-tts rewrites a published `model.pth` in place."""
    model = run.base_model
    for name in (*_REQUIRED, *_OPTIONAL):
        file = next((source / name for source in (model.parent, run.base_dir) if (source / name).is_file()), None)
        if file is not None:
            copy_file(file, folder / name)
        elif name in _REQUIRED:
            raise PackError(
                f"{model.parent} has no {name}, so it is not a base directory. Pass the base's folder with --base-dir."
            )
    if loads_in_stock(model):
        copy_file(model, folder / "model.pth")
        return
    weights, _ = weights_of(load_pickled(model, map_location="cpu"), model)
    with atomic_write(folder / "model.pth") as written:
        torch.save({"model": weights}, written)


def merged_config(run: FinishedRun) -> XttsConfig:
    """Return the configuration for a run's merged weights."""
    config = XttsConfig()
    copy_recorded(config, run.checkpoint.config)
    known = [code for code in config.languages if code in run.vocabulary.languages]
    config.languages = known + [code for code in run.vocabulary.languages if code not in known]
    config.model_args.tokenizer_file = ""
    config.model_args.gpt_number_text_tokens = run.vocabulary.size
    return config


def _write_merged(run: FinishedRun, output: Path) -> None:
    """Write merged weights that stock coqui-tts can load without this package."""
    config = merged_config(run)
    step, language = run.checkpoint.info.step, run.language or _UNKNOWN_LANGUAGE
    with atomic_folder(output) as folder:
        with atomic_write(folder / "model.pth") as file:
            torch.save({"model": run.merged}, file)
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=4), encoding="utf-8")
        (folder / "vocab.json").write_bytes(run.vocabulary.content.encode())
        if (run.base_dir / "speakers_xtts.pth").is_file():
            copy_file(run.base_dir / "speakers_xtts.pth", folder / "speakers_xtts.pth")
        metadata = {"language": language, "step": step, "base_dir": str(run.base_dir), "checkpoint": str(run.path)}
        (folder / "xtts_extend.json").write_text(json.dumps(metadata, indent=4, ensure_ascii=False), encoding="utf-8")
        card = merged_card(language, step or 0, config.audio.output_sample_rate)
        (folder / "README.md").write_text(card, encoding="utf-8")
