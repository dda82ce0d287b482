"""Check that a configuration is valid and matches the files, before any data or weights are read."""

from __future__ import annotations

from pathlib import Path

import torch
from trainer.trainer_utils import get_optimizer, get_scheduler

from xtts_extend.data.audio import load_audio
from xtts_extend.errors import ConfigError
from xtts_extend.model.adapter import KINDS as ADAPTERS
from xtts_extend.model.embedding import INIT_METHODS
from xtts_extend.model.voice import REFERENCE_RATE, VOICE_MODES
from xtts_extend.run.config import NewLanguageConfig, recordings
from xtts_extend.setup.base import require_codec
from xtts_extend.setup.start import Start
from xtts_extend.text.languages import validate_code
from xtts_extend.text.tokenizer import load_tokenizer, require_tag

#: Dashboards that coqui's Trainer supports.
DASHBOARDS = ("tensorboard", "wandb", "mlflow", "aim", "clearml")
_AT_LEAST_ONE = (
    "batch_size",
    "eval_batch_size",
    "grad_accum_steps",
    "epochs",
    "max_steps",
    "save_step",
    "save_n_checkpoints",
    "print_step",
    "plot_step",
    "run_eval_steps",
    "adapter_rank",
    "patience",
)


def validate_config(config: NewLanguageConfig, start: Start) -> None:
    """Raise unless a run can be trained with this configuration. The configuration is not changed.

    Args:
        config: The run's resolved configuration.
        start: The checkpoint that the run starts or resumes from.

    Raises:
        CheckpointError: The DVAE or the mel statistics do not match the model.
        ConfigError: Values contradict each other or the files, or a required value is missing.
        DataError: The voice of a test sentence cannot be read.
        LanguageError: A language has no tag in the vocabulary.
    """
    _require_numbers(config)
    if not config.language:
        raise ConfigError(
            "--language is missing. Pass the code of the language to learn, as it appears in its tag in the "
            "vocabulary (`am` for `[am]`)."
        )
    validate_code(config.language)
    if not config.train_manifests:
        raise ConfigError("--train-manifest is missing. Pass at least one manifest.")
    if config.adapter != "none" and config.voice == "trained":
        raise ConfigError("--adapter lora freezes the voice side. Omit --voice trained.")
    _require_fit(config, start)
    _require_valid_overrides(config)
    tokenizer = load_tokenizer(Path(config.model_args.tokenizer_file))
    for language in (config.language, *(sentence["language"] for sentence in config.test_sentences)):
        require_tag(tokenizer, language)
    for sentence in config.test_sentences:
        for file in recordings(sentence):
            load_audio(file, REFERENCE_RATE)
    if config.start_from and config.adapter != "none" and not start.resumed:
        raise ConfigError(
            "--start-from starts training from weights that a language pack has changed, but an adapter needs the "
            "base's own weights. Omit --adapter."
        )
    _require_device(config)
    require_codec(config)


def _require_numbers(config: NewLanguageConfig) -> None:
    for key in _AT_LEAST_ONE:
        value = getattr(config, key)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{key}: expected an integer of at least 1, got {value}.")
    for key, value, known in (
        ("init", config.init, INIT_METHODS),
        ("voice", config.voice, VOICE_MODES),
        ("adapter", config.adapter, ADAPTERS),
    ):
        if value not in known:
            raise ConfigError(f"{key}: expected one of {', '.join(known)}, got {value!r}.")


def _require_fit(config: NewLanguageConfig, start: Start) -> None:
    """Raise unless the sizes in the configuration match those of the weights, before a model is built."""
    model_args, found = config.model_args, start.info.architecture
    for name, stated, actual in (
        ("gpt_layers", model_args.gpt_layers, found.layers),
        ("gpt_n_model_channels", model_args.gpt_n_model_channels, found.channels),
    ):
        if stated != actual:
            raise ConfigError(
                f"config.json has {name} = {stated}, but {start.path} has {actual}. Use the config.json that belongs "
                "to these weights."
            )
    if model_args.gpt_n_heads < 1 or found.channels % model_args.gpt_n_heads:
        raise ConfigError(
            f"gpt_n_heads = {model_args.gpt_n_heads} does not divide gpt_n_model_channels = {found.channels}. Use the "
            "config.json that belongs to these weights."
        )


def _require_valid_overrides(config: NewLanguageConfig) -> None:
    """Raise if an override has set an invalid value."""
    try:
        optimizer = get_optimizer(
            config.optimizer, config.optimizer_params, config.lr, parameters=iter([torch.nn.Parameter(torch.zeros(1))])
        )
        get_scheduler(config.lr_scheduler, config.lr_scheduler_params, optimizer)
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"Cannot create the optimizer {config.optimizer} {config.optimizer_params} with the schedule "
            f"{config.lr_scheduler} {config.lr_scheduler_params}: {error}. Use names and parameters from torch.optim."
        ) from error
    if config.dashboard_logger not in DASHBOARDS:
        raise ConfigError(
            f"dashboard_logger: expected one of {', '.join(DASHBOARDS)}, got {config.dashboard_logger!r}."
        )
    for key in ("sample_rate", "dvae_sample_rate", "output_sample_rate"):
        if getattr(config.audio, key) < 1:
            raise ConfigError(
                f"audio.{key}: expected a sample rate in Hz, got {getattr(config.audio, key)}. Keep the base's value."
            )
    for sentence in config.test_sentences:
        if not isinstance(sentence, dict) or not {"text", "language", "speaker_wav"} <= sentence.keys():
            raise ConfigError(
                f"test_sentences: expected an object with text, language and speaker_wav, got {sentence!r}."
            )


def _require_device(config: NewLanguageConfig) -> None:
    if not torch.cuda.is_available():
        if config.mixed_precision and config.precision == "fp16":
            raise ConfigError("--amp fp16 needs a GPU, but none is visible. Use --amp bf16 or none.")
        if config.use_grad_scaler:
            raise ConfigError("use_grad_scaler needs a GPU, but none is visible. Set --coqpit.use_grad_scaler=false.")
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible, but a single process uses only one. Select one by putting "
            "CUDA_VISIBLE_DEVICES=0 before the command, or use all of them with torchrun --nproc_per_node "
            f"{torch.cuda.device_count()} instead of python."
        )
