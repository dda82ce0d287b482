"""The codes of manifests, made once and beforehand: what training reads in the place of the recordings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtts_extend.data.check import check_samples
from xtts_extend.data.encoded import require_free
from xtts_extend.data.manifest import read_manifests
from xtts_extend.errors import DataError
from xtts_extend.model.codec import Codec
from xtts_extend.setup.base import config_for_base, require_codec
from xtts_extend.setup.samples import CHECKED, codec_digest, encode_into, limits_of
from xtts_extend.text.tokenizer import load_tokenizer

logger = logging.getLogger("trainer")


def encode(
    manifests: Sequence[str],
    base_dir: Path,
    output: Path,
    *,
    vocab: Path | None = None,
    language: str | None = None,
    manifest_format: str = "auto",
    columns: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Encode the usable utterances of manifests, as far as they are not in the set; the recipe takes it as `--codes`.

    Args:
        manifests: PATH or PATH:LANG each.
        base_dir: its DVAE and mel statistics make the codes.
        output: the folder of the set; it may serve several manifests, languages and vocabularies.
        vocab: of the token ids; the base's by default.
        language: of manifests that name none.
        manifest_format, columns: as for the recipe.
        progress: show bars.

    Returns:
        `utterances` of these manifests that are in the set, `hours`, `encoded`, the recordings that were encoded now,
        `unusable`, and `output`.

    Raises:
        ConfigError: the base lacks files, or the folder holds something else.
        CheckpointError: the DVAE or the statistics do not fit.
        DataError: a manifest cannot be read, or nothing in it is usable.
        LanguageError: the vocabulary does not know a language.
        MachineError: the disk is full.
    """
    require_free(output)
    config = config_for_base(base_dir, vocab)
    require_codec(config)
    tokenizer = load_tokenizer(config.model_args.tokenizer_file)
    samples = read_manifests(manifests, language, manifest_format, columns)
    report = check_samples(samples, tokenizer, limits_of(config), cache=output / CHECKED, progress=progress)
    logger.info(" > %s", report.summary())
    if not report.usable:
        raise DataError("There is not one usable sample. The problems are named above.")
    codec, digest = Codec.load(config), codec_digest(config)
    found, made = encode_into(output.absolute(), report.usable, config, codec, tokenizer, digest, progress)
    return {
        "utterances": len(found),
        "hours": sum(sample.duration_s for sample in found) / 3600,
        "encoded": made,
        "unusable": len(samples) - len(report.usable),
        "output": str(output),
    }
