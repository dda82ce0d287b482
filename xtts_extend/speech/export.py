"""A run becomes a folder that stock coqui-tts loads, after the proof that frozen rows are the base's, bit for bit."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from TTS.tts.configs.xtts_config import XttsConfig

from xtts_extend.checkpoint.adapter_file import ADAPTER_FILE, save_adapter
from xtts_extend.checkpoint.inspect import inspect_checkpoint
from xtts_extend.checkpoint.store import load_checkpoint
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError
from xtts_extend.files import atomic_folder, atomic_write
from xtts_extend.model.adapter import difference, merge
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.frozen_rows import BaseRows
from xtts_extend.model.gpt_trainer import merged_weights, row_digests, xtts_weights
from xtts_extend.run.config import take_recorded
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary, require_extension

logger = logging.getLogger("trainer")

_README = """# XTTS with {language}

A plain XTTS model folder, exported at step {step}. For {language}, coqui's tokenizer needs one line,
`xtts_extend.enable()`; the languages of the base work without it.

```python
import xtts_extend; xtts_extend.enable()
from TTS.tts.configs.xtts_config import XttsConfig; from TTS.tts.models.xtts import Xtts

config = XttsConfig(); config.load_json("config.json")
model = Xtts(config); model.load_checkpoint(config, checkpoint_dir=".", strict=True)
```

Then `model.synthesize("…", speaker_wav="voice.wav", language="{language}")["wav"]` is audio at {rate} Hz. Or, without
Python and without FFmpeg:

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

The licence of the base model holds for this model as well.
"""

_README_APART = """# XTTS with {language}, apart from its base

A plain XTTS model folder, exported at step {step}. `model.pth` is the base with rows for new tokens: stock coqui-tts
loads it and speaks the base's languages exactly as the base does. What was learned for {language} is in
`adapter.safetensors`, which is applied by

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

and, in Python, by `xtts_extend.speech.speaking.load_model(Path("."), "{language}")`, which gives coqui's `Xtts` object
at {rate} Hz. A folder that speaks {language} in stock coqui-tts is exported without `--keep-adapter`.

The licence of the base model holds for this model as well.
"""


def export(
    checkpoint: Path,
    output: Path,
    base_dir: Path | None = None,
    *,
    keep_adapter: bool = False,
    adapter_rank: int | None = None,
) -> dict[str, Any]:
    """Write `model.pth`, `config.json`, `vocab.json`, `speakers_xtts.pth` (if the base has one) and a README.

    Args:
        checkpoint: a training checkpoint, or a run folder (its newest sound checkpoint).
        output: a folder that does not exist yet, or is empty.
        base_dir: the base's folder, where it is not the recorded one any more.
        keep_adapter: `model.pth` is the base with the rows of new tokens, and what the run learned beside them is kept
            as `adapter.safetensors`, which `speak` applies for its language alone: the old languages are exactly the
            base's. Otherwise an adapter is merged into the weights.
        adapter_rank: with `keep_adapter`, of a run that trained the transformer itself: keep the largest directions of
            the change of each matrix, so many; by default the whole change.

    Returns:
        What was exported: `checkpoint`, `step`, `language`, `base_rows`, `base_rows_checked`, `size_bytes`, and
        `adapter_bytes`, 0 where there is no file of an adapter.

    Raises:
        CheckpointError: no sound training checkpoint.
        ConfigError: the output folder is not empty, or a given base directory does not hold the base.
        CheckFailed: the run froze the old rows and they are not the base's.
        MachineError: the disk is full or cannot be written to.
    """
    info = inspect_checkpoint(checkpoint, verify=True)
    path = Path(info.path)
    if info.kind != "training":
        raise CheckpointError(
            f"{path} is a base model; only a run's checkpoint can be exported. Give checkpoint_N.pth or a run folder."
        )
    run = TrainingCheckpoint.open(path)
    run.require_config()
    recorded: Mapping[str, Any] = run.config
    record = run.record
    weights = xtts_weights(run.model)
    adapter = dict(record.adapter.tensors) if record else {}
    if adapter_rank is not None and (adapter or not keep_adapter):
        raise ConfigError(
            "--adapter-rank is for --keep-adapter and a run that trained the transformer itself; "
            + ("the adapter of this run has its rank already." if adapter else "give --keep-adapter as well.")
        )
    base = base_dir or Path((record.base_dir if record else "") or path.parent)
    rows_checked = _prove_base_rows(weights, record.base_rows if record else None, base_dir, base)

    vocab = path.parent / "vocab.json"
    vocab = vocab if vocab.is_file() else Path(recorded["model_args"]["tokenizer_file"])
    vocabulary = load_vocabulary(vocab)
    if record and record.vocabulary and vocabulary.digest != record.vocabulary.digest:
        raise CheckpointError(
            f"{vocab} is not the vocabulary that {path} was trained with. Put the run's own beside it."
        )
    config = XttsConfig()
    take_recorded(config, recorded)
    known = [code for code in config.languages if code in vocabulary.languages]
    config.languages = known + [code for code in vocabulary.languages if code not in known]
    config.model_args.tokenizer_file = ""
    config.model_args.gpt_number_text_tokens = vocabulary.size
    language = recorded.get("language") or "a fine-tuned language"
    if keep_adapter and not recorded.get("language"):
        raise ConfigError(
            f"{path} does not record which language its run learned, so nothing could be applied for it alone. Export "
            "without --keep-adapter."
        )

    if not keep_adapter:
        weights = merge(weights, adapter)
    elif not adapter:
        started_from = Path(base_dir / "model.pth" if base_dir else recorded.get("started_from") or base / "model.pth")
        weights, adapter = difference(weights, _base_weights(started_from, weights, vocabulary), adapter_rank)

    with atomic_folder(output) as folder:
        with atomic_write(folder / "model.pth") as file:
            torch.save({"model": weights}, file)
        if keep_adapter:
            save_adapter(adapter, language, folder / ADAPTER_FILE)
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=4), encoding="utf-8")
        (folder / "vocab.json").write_bytes(vocabulary.content.encode())
        if (base / "speakers_xtts.pth").is_file():
            shutil.copyfile(base / "speakers_xtts.pth", folder / "speakers_xtts.pth")
        about = {"language": language, "step": info.step, "base_dir": str(base), "checkpoint": str(path)}
        (folder / "xtts_extend.json").write_text(json.dumps(about, indent=4, ensure_ascii=False), encoding="utf-8")
        readme = (_README_APART if keep_adapter else _README).format(
            language=language, step=info.step, rate=config.audio.output_sample_rate
        )
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return {
        "checkpoint": str(path),
        "step": info.step,
        "language": language,
        "base_rows": record.base_rows.rows if record else None,
        "base_rows_checked": rows_checked,
        "size_bytes": (output / "model.pth").stat().st_size,
        "adapter_bytes": (output / ADAPTER_FILE).stat().st_size if keep_adapter else 0,
    }


def _base_weights(file: Path, weights: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """What a run started from, for a comparison with the run's weights; its tokens have to come first in the run's."""
    if not file.is_file():
        raise ConfigError(f"{file}, which the run started from, is not there any more. Give its folder as --base-dir.")
    if (file.parent / "vocab.json").is_file():
        require_extension(load_vocabulary(file.parent / "vocab.json"), vocabulary)
    content, _ = load_checkpoint(file)
    base = merged_weights(content)
    other = [name for name, tensor in weights.items() if name not in base or base[name].shape[1:] != tensor.shape[1:]]
    if other or base["gpt.text_head.bias"].shape[0] > weights["gpt.text_head.bias"].shape[0]:
        raise ConfigError(f"{file} is not what the run started from: other tensors than the run's. Give --base-dir.")
    return base


def _prove_base_rows(
    weights: dict[str, Any], recorded: BaseRows | None, base_dir: Path | None, recorded_base: Path
) -> bool:
    """Compare the old rows with the base's digests, and with the base itself where it is named."""
    if recorded is None or not recorded.frozen:
        logger.info(" > the run trained all rows (or recorded none): old rows are not compared with the base's.")
        return False
    rows, expected = recorded.rows, recorded.digests
    if base_dir is not None:
        base = base_dir / "model.pth"
        if not base.is_file():
            raise ConfigError(f"{base_dir} holds no model.pth. Give the folder of the base that the run started from.")
        content, info = load_checkpoint(base)
        # fewer, where the run went on from another run's weights: that one's new rows are old ones now
        own = min(info.vocab_size, rows)
        of_base = merged_weights(content)
        if info.vocab_size > rows or row_digests(of_base, own) != row_digests(weights, own):
            if info.vocab_size <= rows and (half := _half_precision(weights, own)):
                rounded = {key: tensor.to(half) for key, tensor in of_base.items() if key.endswith(TOKEN_TENSORS)}
                if row_digests(rounded, own) == row_digests(weights, own):
                    raise _rounded(rows, half, base_dir)
            raise CheckFailed(
                f"The {info.vocab_size} token rows of {base} are not the first of the {rows} that the run froze. Give "
                "the base of this run."
            )
    changed = [name for name, digest in row_digests(weights, rows).items() if digest != expected[name]]
    if changed and (half := _half_precision(weights, rows)):
        raise _rounded(rows, half, recorded_base)
    if changed:
        raise CheckFailed(
            f"The first {rows} rows of {', '.join(changed)} are not the base's any more, although the run froze them: "
            "old languages would sound different. The checkpoint was edited or damaged; export an earlier one."
        )
    return True


def _half_precision(weights: dict[str, Any], rows: int) -> torch.dtype | None:
    """The type of half precision that all of the first token rows are rounded to, if there is one."""
    parts = [weights[f"gpt.{name}"][:rows] for name in TOKEN_TENSORS]
    return next(
        (
            dtype
            for dtype in (torch.float16, torch.bfloat16)
            if all(torch.equal(part, part.to(dtype).to(part.dtype)) for part in parts)
        ),
        None,
    )


def _rounded(rows: int, half: torch.dtype, base: Path) -> CheckFailed:
    return CheckFailed(
        f"The first {rows} token rows are in half precision ({half}): they are the base's, rounded, although the run "
        "froze them, and old languages would sound different. The checkpoint was converted, or its run was resumed "
        f"from one that was. Put the base's rows back with `xtts-extend repair CHECKPOINT --base {base} --output NEW` "
        "and export NEW, or export the checkpoint as it was before."
    )
