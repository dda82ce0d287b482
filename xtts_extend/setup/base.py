"""Checks for a base directory. Each finding pairs an assumption with what was actually found.

The recipe runs the few checks that it depends on. `check-base` runs all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import psutil
import torch
from torch import Tensor

from xtts_extend.checkpoint.inspect import load_pickled, weights_of
from xtts_extend.errors import CheckpointError, ConfigError, XttsExtendError
from xtts_extend.findings import Finding
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.codec import make_dvae
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer, xtts_weights
from xtts_extend.run.config import NewLanguageConfig, copy_architecture, read_json
from xtts_extend.text.vocabulary import load_vocabulary

FILES = ("config.json", "model.pth", "vocab.json", "dvae.pth", "mel_stats.pth")
#: Bytes per parameter in float32: for its value, for its gradient and AdamW's two moments, and for the moments alone.
_WEIGHT_BYTES, _TRAINING_BYTES, _MOMENT_BYTES = 4, 12, 8


def use_base(config: NewLanguageConfig, base_dir: Path) -> None:
    """Write the paths of the base's files into a configuration. A vocabulary that is already set is kept.

    Raises:
        ConfigError: The folder or a file that training needs is missing.
    """
    if not base_dir.is_dir():
        raise ConfigError(
            f"The base directory {base_dir} does not exist. Pass the folder that contains {', '.join(FILES)}."
        )
    # Weights and vocabulary may be elsewhere (--checkpoint, --vocab).
    missing = [name for name in ("dvae.pth", "mel_stats.pth") if not (base_dir / name).is_file()]
    if missing:
        raise ConfigError(
            f"{base_dir} has no {' and no '.join(missing)}, which training needs. Download the missing files into that "
            "folder (docs/tutorial.md says where to find them)."
        )
    config.base_dir = str(base_dir)
    config.model_args.dvae_checkpoint = str(base_dir / "dvae.pth")
    config.model_args.mel_norm_file = str(base_dir / "mel_stats.pth")
    config.model_args.tokenizer_file = config.model_args.tokenizer_file or str(base_dir / "vocab.json")


def config_for_base(base_dir: Path, vocab: Path | None = None, *, model: Path | None = None) -> NewLanguageConfig:
    """Return a configuration with a base's architecture and the paths of the files that training needs.

    Args:
        base_dir: Folder with `dvae.pth` and `mel_stats.pth`.
        vocab: Vocabulary file; by default, the base's.
        model: Model folder whose `config.json` specifies the architecture; by default, `base_dir`.

    Raises:
        ConfigError: The folder or a file is missing, or `config.json` specifies no architecture.
    """
    config = NewLanguageConfig()
    copy_architecture(config, read_json((model or base_dir) / "config.json"))
    config.model_args.tokenizer_file = str(vocab or "")
    use_base(config, base_dir)
    return config


def dvae_findings(path: Path, num_tokens: int) -> Iterator[Finding]:
    """Check that a DVAE file has all tensors with the right shapes; coqui ignores any that are missing."""
    state = load_pickled(path, map_location="meta")
    if not isinstance(state, Mapping):
        yield Finding("dvae.pth is a state dict", type(state).__name__, False)
        return
    with BlankWeights():
        expected = make_dvae(num_tokens).state_dict()
    missing = sorted(set(expected) - set(state))
    yield Finding("dvae.pth is complete", f"missing: {', '.join(missing[:5]) or 'none'}", not missing)
    left_over = sorted(set(state) - set(expected))
    if left_over:
        yield Finding("dvae.pth has no unexpected tensors", f"unused: {', '.join(map(str, left_over[:5]))}", None)
    wrong = [
        f"{key}: expected {tuple(tensor.shape)}, got {tuple(state[key].shape)}"
        for key, tensor in expected.items()
        if isinstance(state.get(key), Tensor) and state[key].shape != tensor.shape
    ]
    yield Finding(
        f"dvae.pth has {num_tokens} codes and coqui's tensor shapes", "; ".join(wrong[:3]) or "as expected", not wrong
    )


def mel_stats_finding(path: Path) -> Finding:
    """Check that the mel statistics are 80 finite, nonzero numbers, because mels are divided by them."""
    stats = load_pickled(path, map_location="cpu")
    if not isinstance(stats, Tensor):
        return Finding("mel_stats.pth is a tensor", type(stats).__name__, False)
    is_valid = tuple(stats.shape) == (80,) and bool(torch.isfinite(stats).all()) and bool((stats != 0).all())
    return Finding("mel_stats.pth has 80 finite, nonzero numbers", f"shape {tuple(stats.shape)}", is_valid)


def require_codec(config: NewLanguageConfig) -> None:
    """Raise unless the DVAE and the mel statistics match the model.

    Raises:
        CheckpointError: A file is incomplete or has unexpected shapes or values.
    """
    model_args = config.model_args
    findings = [
        *dvae_findings(Path(model_args.dvae_checkpoint), model_args.gpt_num_audio_tokens - 2),
        mel_stats_finding(Path(model_args.mel_norm_file)),
    ]
    failed = [finding for finding in findings if finding.holds is False]
    if failed:
        raise CheckpointError(
            f"The base's files in {config.base_dir} failed these checks:\n  "
            + "\n  ".join(f"{finding.assumption}: {finding.found}" for finding in failed)
            + "\nUse the files that belong to this base."
        )


def check_base(base_dir: Path) -> list[Finding]:
    """Run all checks on a base directory, in order. Later checks depend on earlier ones.

    Returns:
        All findings, including those where the assumption holds.

    Raises:
        ConfigError: The directory does not exist.
    """
    if not base_dir.is_dir():
        raise ConfigError(f"{base_dir} does not exist. Pass the folder that contains {', '.join(FILES)}.")
    findings: list[Finding] = []
    try:
        findings.extend(_check(base_dir, findings))
    except XttsExtendError as error:
        findings.append(Finding("all checks can run", str(error), False))
    return findings


def _check(base_dir: Path, findings: list[Finding]) -> Iterator[Finding]:
    for name in FILES:
        path = base_dir / name
        found = f"{path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else "missing"
        yield Finding(f"{name} exists", found, path.is_file())
    speakers = base_dir / "speakers_xtts.pth"
    yield Finding("speakers_xtts.pth (optional)", "found" if speakers.is_file() else "missing", None)
    if not all((base_dir / name).is_file() for name in FILES):
        return

    raw = read_json(base_dir / "config.json")
    config = config_for_base(base_dir)
    stated_args: Mapping[str, object] = cast("dict[str, object]", raw["model_args"])
    unknown = sorted(set(stated_args) - set(vars(config.model_args)))
    yield Finding("config.json has no unknown model_args", ", ".join(unknown) or "none", None if unknown else True)

    content = load_pickled(base_dir / "model.pth", map_location="meta")
    weights, _ = weights_of(content, base_dir / "model.pth")
    plain = xtts_weights(weights)
    layers = len({key.split(".")[3] for key in plain if key.startswith("gpt.gpt.h.")})
    rows, channels = plain["gpt.text_embedding.weight"].shape
    yield Finding(
        "number of layers matches config.json",
        f"{layers} / {config.model_args.gpt_layers}",
        layers == config.model_args.gpt_layers,
    )
    yield Finding(
        "number of channels matches config.json",
        f"{channels} / {config.model_args.gpt_n_model_channels}",
        channels == config.model_args.gpt_n_model_channels,
    )
    for name in TOKEN_TENSORS:
        shape = tuple(plain[f"gpt.{name}"].shape) if f"gpt.{name}" in plain else ()
        yield Finding(f"{name} has {rows} rows", f"shape {shape}" if shape else "missing", shape[:1] == (rows,))
    dropped = len(weights) - len(plain)
    if dropped:
        yield Finding("model.pth has one copy of the transformer", f"extra tensors (ignored): {dropped}", None)

    vocabulary = load_vocabulary(base_dir / "vocab.json")
    yield Finding("one row per token id", f"{rows} rows, ids 0–{vocabulary.size - 1}", rows == vocabulary.size)
    stated = stated_args.get("gpt_number_text_tokens")
    yield Finding(
        "config.json's gpt_number_text_tokens equals the number of rows", f"{stated}", None if stated != rows else True
    )
    usual = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 261}
    specials = {token: vocabulary.tokens.get(token) for token in usual}
    yield Finding("special tokens exist", str(specials), None not in specials.values())
    if specials != usual:
        yield Finding("special tokens have the usual ids", f"usual: {usual}", None)
    untagged = [code for code in config.languages if code not in vocabulary.languages]
    yield Finding("all languages in config.json have a tag", f"missing: {', '.join(untagged) or 'none'}", not untagged)
    audio_tokens = config.model_args.gpt_num_audio_tokens
    embedded = plain["gpt.mel_embedding.weight"].shape[0]
    yield Finding(
        "number of audio tokens matches config.json", f"{embedded} / {audio_tokens}", embedded == audio_tokens
    )
    ends = (config.model_args.gpt_start_audio_token, config.model_args.gpt_stop_audio_token)
    yield Finding(
        "the audio start and stop tokens are the last two", str(ends), ends == (audio_tokens - 2, audio_tokens - 1)
    )
    rates = (config.audio.sample_rate, config.audio.dvae_sample_rate, config.audio.output_sample_rate)
    yield Finding("the input is 22,050 Hz and the output is 24,000 Hz", str(rates), rates == (22050, 22050, 24000))
    yield from dvae_findings(base_dir / "dvae.pth", audio_tokens - 2)
    yield mel_stats_finding(base_dir / "mel_stats.pth")
    if not any(finding.holds is False for finding in findings):
        yield from _forward_findings(config, base_dir)


def _forward_findings(config: NewLanguageConfig, base_dir: Path) -> Iterator[Finding]:
    """Load all files, run one forward pass on two seconds of noise, and estimate memory and disk space for training."""
    model = ExtendedGPTTrainer(config)
    content = load_pickled(base_dir / "model.pth", map_location="cpu")
    weights = xtts_weights(weights_of(content, base_dir / "model.pth")[0])
    model.load_base(weights, model.vocab_size)
    yield Finding("all tensors of model.pth can be loaded", f"{len(weights)} tensors", True)
    bad = [key for key, tensor in weights.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    yield Finding("all weights are finite", ", ".join(bad[:5]) or "yes", not bad)
    model.eval()
    samples = 2 * config.audio.sample_rate
    noise = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))
    text = torch.full((1, 12), 3, dtype=torch.int32)
    with torch.no_grad():
        batch = model.formatted(
            {
                "padded_text": text,
                "text_lengths": torch.tensor([text.shape[1]]),
                "wav": noise,
                "codes": None,
                "is_encoded": torch.tensor([False]),
                "wav_lengths": torch.tensor([samples]),
                "conditioning": noise.unsqueeze(1),
                "cond_idxs": None,
                "cond_lens": None,
            }
        )
        _, losses = model.train_step(batch, None)
    codes = batch["audio_codes"].unique().numel()
    yield Finding("one forward pass gives a finite loss", f"{losses['loss']:.3f}", bool(torch.isfinite(losses["loss"])))
    # An untrained DVAE encodes everything as a single code. Training then runs but learns nothing.
    diversity = f"number of distinct codes for two seconds of noise: {codes} out of {batch['audio_codes'].numel()}"
    yield Finding("the DVAE produces more than one distinct code", diversity, True if codes > 1 else None)
    # Runs with new tokens freeze the voice side, which reduces the estimates.
    model.freeze_voice()
    everything = sum(parameter.numel() for parameter in model.xtts.gpt.parameters())
    trained = sum(parameter.numel() for parameter in model.xtts.gpt.parameters() if parameter.requires_grad)
    memory = (everything * _WEIGHT_BYTES + trained * _TRAINING_BYTES) / 1e9
    free = psutil.virtual_memory().available / 1e9
    yield Finding(
        "memory for weights, gradients and AdamW in float32",
        f"{memory:.1f} GB plus activations; {free:.1f} GB free here",
        None,
    )
    decoder = sum(tensor.nbytes for key, tensor in weights.items() if not key.startswith("gpt."))
    size = (everything * _WEIGHT_BYTES + trained * _MOMENT_BYTES + decoder) / 1e9
    disk = shutil.disk_usage(base_dir).free / 1e9
    # Six files: the newest three, one that is being written, the old best model and the new best model.
    yield Finding(
        "disk space for a run that keeps three checkpoints",
        f"{6 * size:.1f} GB ({size:.1f} GB each); {disk:.1f} GB free here",
        None,
    )
