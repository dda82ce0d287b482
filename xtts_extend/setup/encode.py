"""Encode the recordings in manifests in advance, so that training reads their codes instead of the audio."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtts_extend.data.check import check_samples
from xtts_extend.data.encoded import require_free
from xtts_extend.data.manifest import read_manifests
from xtts_extend.data.processes import SINGLE_PROCESS, Processes
from xtts_extend.data.sample_table import values
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
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, object]:
    """Add the usable utterances in manifests to a set of codes, encoding only those that are not yet in it.

    To train with the set, pass it with `--codes`.

    Args:
        manifests: Manifests, each as PATH or PATH:LANG.
        base_dir: Base directory with the DVAE and mel statistics that are used to compute the codes.
        output: Folder for the set of codes. One set can serve several manifests, languages and vocabularies.
        vocab: Vocabulary for the token ids; by default, the base's.
        language: Language of each PATH without a LANG.
        manifest_format: Format of the manifests, as in the recipe's `--manifest-format`.
        columns: Mapping from role to column, as in the recipe's `--columns`.
        progress: Whether to show progress bars.
        processes: The processes that call this function with the same arguments and divide the recordings.

    Returns:
        `utterances`: number of usable utterances in these manifests, all of which are now in the set; `hours`: their
        total duration in hours; `encoded`: number of recordings encoded by this call; `unusable`: number of skipped
        utterances; `output`: the folder.

    Raises:
        ConfigError: A file of the base is missing, or the folder contains something other than a set of codes.
        CheckpointError: The DVAE or the mel statistics do not match the model.
        DataError: A manifest cannot be read, or nothing in it is usable.
        LanguageError: The vocabulary has no tag for a language.
        MachineError: The disk is full.
    """
    require_free(output)
    config = config_for_base(base_dir, vocab)
    require_codec(config)
    tokenizer = load_tokenizer(config.model_args.tokenizer_file)
    samples = read_manifests(manifests, language, manifest_format, columns)
    report = check_samples(
        samples, tokenizer, limits_of(config), cache=output / CHECKED, progress=progress, processes=processes
    )
    logger.info(" > %s", report.summary())
    if not report.usable:
        raise DataError("No sample is usable. Fix the problems listed above.")
    codec, digest = Codec.load(config), codec_digest(config)
    encoded, count = encode_into(
        output.absolute(), report.usable, config, codec, tokenizer, digest, progress, processes
    )
    return {
        "utterances": len(encoded),
        "hours": sum(values(encoded, "duration_s")) / 3600,
        "encoded": count,
        "unusable": len(samples) - len(report.usable),
        "output": str(output),
    }
