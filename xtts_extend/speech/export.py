"""A run becomes what other people use: a model folder with a language pack, a pack alone, or one set of weights."""

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

#: Files of a base that go into a model folder, beside its `model.pth`; the last ones only if they are there.
_FILES = ("config.json", "vocab.json")
_OPTIONAL = ("speakers_xtts.pth", "dvae.pth", "mel_stats.pth")
#: Of a run that does not record which one it learned.
_SOME_LANGUAGE = "a fine-tuned language"


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
    """Write what a run learned.

    Args:
        checkpoint: a training checkpoint, or a run folder (its newest sound checkpoint).
        output: a folder that does not exist yet, or is empty: a model folder, with the base's own files and the
            language pack. Or a file that ends in ".safetensors": the pack alone.
        base_dir: the base's folder, where it is not the recorded one any more.
        merged: write one set of weights for all languages instead, in which the old ones change.
        rank: of the change of each matrix keep this many directions; None keeps the whole change.
        dtype: of the pack's tensors: "float32", "bfloat16" or "float16".
        licence: of what the run was trained on; it is written into the pack.

    Returns:
        What was exported: `checkpoint`, `step`, `language`, `form` ("folder", "pack" or "merged"), `output`,
        `base_rows`, `base_rows_checked`, and `size_bytes`, of `model.pth` or of the pack alone. With a pack
        `pack_bytes`, its `rank` and `dtype` as well, and in a folder its path, `pack`.

    Raises:
        CheckpointError: no sound training checkpoint.
        ConfigError: the output is there already, flags contradict each other, or the base is not where it was.
        PackError: the run cannot be a pack; the message says why, and names `merged`.
        CheckFailed: the run froze the old rows and they are not the base's.
        MachineError: the disk is full or cannot be written to.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank}: expected 1 or more.")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.")
    if merged and (rank is not None or dtype != "float32" or output.suffix == SUFFIX):
        raise ConfigError(
            f"--merged writes a folder with whole weights: --rank, --dtype and an output that ends in {SUFFIX} are for "
            "packs. Omit one of the two."
        )
    if merged and licence:
        raise ConfigError("--licence is written into a language pack, and --merged writes none. Omit one of the two.")
    if output.suffix != SUFFIX:
        require_new_folder(output)
    elif output.exists():
        raise ConfigError(f"{output} exists already. Name another file, or remove this one first.")
    run = FinishedRun.open(checkpoint, base_dir)
    record = run.checkpoint.record
    done = {
        "checkpoint": str(run.path),
        "step": run.checkpoint.info.step,
        "language": run.language or _SOME_LANGUAGE,
        "form": "merged" if merged else "pack" if output.suffix == SUFFIX else "folder",
        "output": str(output),
        "base_rows": record.base_rows.rows if record else None,
        "base_rows_checked": run.rows_checked,
    }
    if merged:
        _write_merged(run, output)
        return {**done, "size_bytes": (output / "model.pth").stat().st_size}
    info, tensors = make_pack(run, rank=rank, dtype=dtype, licence=licence)
    kept = {"rank": info.rank, "dtype": dtype}
    if output.suffix == SUFFIX:
        size = write_pack(output, info, tensors).size_bytes
        return {**done, "size_bytes": size, "pack_bytes": size, **kept}
    with atomic_folder(output) as folder:
        _copy_base(run, folder)
        written = write_pack(folder / PACKS / f"{info.language}{SUFFIX}", info, tensors)
        pack = ModelFolder(folder).add(written.path)
        (folder / "README.md").write_text(folder_card(pack.info), encoding="utf-8")
    return {
        **done,
        "size_bytes": (output / "model.pth").stat().st_size,
        "pack": str(output / PACKS / pack.path.name),
        "pack_bytes": (output / PACKS / pack.path.name).stat().st_size,
        **kept,
    }


def _copy_base(run: FinishedRun, folder: Path) -> None:
    """The base's own files. Never links: stock's `load_checkpoint` writes a published `model.pth` again in place."""
    model = run.base_model
    for name in (*_FILES, *_OPTIONAL):
        file = next((place / name for place in (model.parent, run.base_dir) if (place / name).is_file()), None)
        if file is not None:
            copy_file(file, folder / name)
        elif name in _FILES:
            raise PackError(f"{model.parent} lacks {name}: it is no base's folder. Give the base's as --base-dir.")
    if loads_in_stock(model):
        copy_file(model, folder / "model.pth")
        return
    weights, _ = weights_of(load_pickled(model, map_location="cpu"), model)
    with atomic_write(folder / "model.pth") as written:
        torch.save({"model": weights}, written)


def _write_merged(run: FinishedRun, output: Path) -> None:
    """One set of weights, as stock coqui-tts loads it without this package."""
    config = XttsConfig()
    copy_recorded(config, run.checkpoint.config)
    known = [code for code in config.languages if code in run.vocabulary.languages]
    config.languages = known + [code for code in run.vocabulary.languages if code not in known]
    config.model_args.tokenizer_file = ""
    config.model_args.gpt_number_text_tokens = run.vocabulary.size
    step, language = run.checkpoint.info.step, run.language or _SOME_LANGUAGE
    with atomic_folder(output) as folder:
        with atomic_write(folder / "model.pth") as file:
            torch.save({"model": run.merged}, file)
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=4), encoding="utf-8")
        (folder / "vocab.json").write_bytes(run.vocabulary.content.encode())
        if (run.base_dir / "speakers_xtts.pth").is_file():
            copy_file(run.base_dir / "speakers_xtts.pth", folder / "speakers_xtts.pth")
        about = {"language": language, "step": step, "base_dir": str(run.base_dir), "checkpoint": str(run.path)}
        (folder / "xtts_extend.json").write_text(json.dumps(about, indent=4, ensure_ascii=False), encoding="utf-8")
        card = merged_card(language, step or 0, config.audio.output_sample_rate)
        (folder / "README.md").write_text(card, encoding="utf-8")
