"""Dependencies: the symbols that we use exist with the expected names, and every package has an upper bound."""

from __future__ import annotations

import configparser
import importlib
import inspect
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from xtts_extend.environment import TESTED

ROOT = Path(__file__).resolve().parents[1]
GPT_TRAINER = "TTS.tts.layers.xtts.trainer.gpt_trainer"

#: By package: module, symbol, and names that the symbol must have as parameters (function), members (class) or keys
#: (dictionary).
REACHED_INTO: dict[str, list[tuple[str, str, set[str]]]] = {
    "coqui-tts": [
        # Subclassed by model/gpt_trainer.py and run/config.py.
        (GPT_TRAINER, "GPTTrainer", {"format_batch", "train_step", "on_train_epoch_start", "on_init_end"}),
        (GPT_TRAINER, "GPTTrainer.__init__", {"config"}),
        (GPT_TRAINER, "GPTTrainer.train_step", {"batch", "criterion", "optimizer_idx"}),
        (GPT_TRAINER, "GPTTrainer.get_data_loader", {"config", "is_eval", "samples"}),
        (GPT_TRAINER, "GPTTrainerConfig", {"lr", "optimizer", "optimizer_params", "lr_scheduler", "test_sentences"}),
        (GPT_TRAINER, "GPTArgs", {"xtts_checkpoint", "gpt_checkpoint", "dvae_checkpoint", "mel_norm_file"}),
        # Patched by text/tokenizer.py.
        ("TTS.tts.layers.xtts.tokenizer", "VoiceBpeTokenizer.preprocess_text", {"txt", "lang"}),
        ("TTS.tts.layers.xtts.tokenizer", "VoiceBpeTokenizer.encode", {"txt", "lang"}),
        ("TTS.tts.layers.xtts.tokenizer", "split_sentence", {"text", "lang", "text_split_length"}),
        ("TTS.tts.models.xtts", "split_sentence", {"text", "lang", "text_split_length"}),
        ("TTS.tts.models.xtts", "Xtts.synthesize", {"text", "config", "language"}),
        # Reimplemented by model/forward.py with coqui's submodules.
        ("TTS.tts.layers.xtts.gpt", "GPT.get_style_emb", {"cond_input", "return_latent"}),
        ("TTS.tts.layers.xtts.gpt", "GPT.forward", {"text_inputs", "audio_codes", "cond_mels", "cond_idxs"}),
        ("TTS.tts.layers.xtts.gpt", "GPT.generate", {"cond_latents", "text_inputs"}),
        ("TTS.tts.layers.xtts.gpt", "GPT.init_gpt_for_inference", {"kv_cache", "use_deepspeed"}),
        ("TTS.tts.layers.tortoise.arch_utils", "QKVAttentionLegacy.forward", {"qkv", "mask", "rel_pos"}),
        # Built and called by model/codec.py, model/voice.py and speaking.py.
        ("TTS.tts.layers.xtts.dvae", "DiscreteVAE.__init__", {"num_tokens", "codebook_dim", "hidden_dim"}),
        ("TTS.tts.layers.xtts.dvae", "DiscreteVAE.get_codebook_indices", set()),
        ("TTS.tts.layers.tortoise.arch_utils", "TorchMelSpectrogram.__init__", {"mel_norm_file", "sampling_rate"}),
        ("TTS.tts.models.xtts", "Xtts.init_models", set()),
        ("TTS.tts.models.xtts", "Xtts.get_gpt_cond_latents", {"audio", "sr", "length", "chunk_length"}),
        ("TTS.tts.models.xtts", "Xtts.get_speaker_embedding", {"audio", "sr"}),
        ("TTS.tts.models.xtts", "Xtts.inference", {"text", "language", "gpt_cond_latent", "speaker_embedding"}),
        ("TTS.tts.configs.xtts_config", "XttsArgs", {"gpt_number_text_tokens", "gpt_layers", "gpt_n_model_channels"}),
        ("TTS.tts.datasets", "load_tts_samples", {"config", "eval_split"}),
    ],
    "coqui-tts-trainer": [
        # Subclassed by training/trainer.py.
        ("trainer", "Trainer.__init__", {"args", "config", "output_path", "model", "parse_command_line_args"}),
        ("trainer", "Trainer.init_training", {"args", "coqpit_overrides", "config"}),
        ("trainer", "Trainer.train_step", {"batch", "batch_n_steps", "step", "loader_start_time"}),
        (
            "trainer",
            "Trainer",
            {
                "restore_model", "save_checkpoint", "save_best_model", "get_train_dataloader", "get_eval_dataloader",
                "train_epoch", "test_run", "fit", "_fit", "format_batch", "use_pt_ddp", "_setup_logger_config",
                "save_training_script",
            },
        ),
        ("trainer", "Trainer._get_autocast_args", {"mixed_precision", "precision"}),
        ("trainer", "TrainerArgs", {"restore_path", "continue_path", "grad_accum_steps", "start_with_eval"}),
        ("trainer.trainer_utils", "get_optimizer", {"optimizer_name", "optimizer_params", "lr", "parameters"}),
        ("trainer.trainer_utils", "get_scheduler", {"lr_scheduler", "lr_scheduler_params", "optimizer"}),
        ("trainer.logging", "logger_factory", {"config", "output_path"}),
        ("trainer.logging", "DummyLogger", {"finish", "flush", "add_scalars", "test_audios"}),
        ("trainer.logging.tensorboard_logger", "TensorboardLogger.__init__", {"log_dir", "model_name"}),
    ],
    "coqpit-config": [("coqpit", "Coqpit", {"to_dict", "from_dict", "load_json"})],
    "torch": [
        ("torch.cpu", "_is_avx512_bf16_supported", set()),
        ("torch.cpu", "_is_amx_tile_supported", set()),
        ("torch.nn.utils", "get_total_norm", {"tensors"}),
        ("torch.nn.utils", "clip_grads_with_norm_", {"parameters", "max_norm", "total_norm"}),
        ("torch.nn.parallel", "DistributedDataParallel.no_sync", set()),
        ("torch.overrides", "TorchFunctionMode.__torch_function__", {"func", "types", "args", "kwargs"}),
    ],
    "torchaudio": [("torchaudio.functional", "resample", {"lowpass_filter_width", "rolloff", "resampling_method"})],
    # Only needed to import coqui-tts.
    "torchcodec": [],
    "transformers": [
        ("transformers.integrations.sdpa_attention", "sdpa_attention_forward", {"attention_mask", "scaling"}),
        ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS", {"sdpa"}),
        ("transformers", "GPT2Config", {"_attn_implementation"}),
        # Base classes of coqui-tts's generation code.
        ("transformers", "GenerationMixin", {"generate", "prepare_inputs_for_generation"}),
        ("transformers", "GPT2PreTrainedModel", {"forward", "config_class"}),
    ],
    "huggingface-hub": [
        # Called by hub/repository.py, because hf_hub_download does not resume.
        ("huggingface_hub.file_download", "http_get", {"url", "temp_file", "resume_size", "headers", "expected_size"}),
        ("huggingface_hub.utils", "build_hf_headers", {"library_name", "library_version"}),
        # Caught by hub/access.py.
        ("huggingface_hub.errors", "HTTPError", set()),
        ("huggingface_hub.errors", "HfHubHTTPError.__init__", {"response", "server_message"}),
    ],
    "tokenizers": [("tokenizers", "Tokenizer", {"from_str", "to_str", "token_to_id", "get_vocab", "encode"})],
    "peft": [
        ("peft", "inject_adapter_in_model", {"peft_config", "model"}),
        ("peft", "LoraConfig", {"r", "lora_alpha", "target_modules", "fan_in_fan_out"}),
    ],
    "sentencepiece": [
        ("sentencepiece.sentencepiece_model_pb2", "ModelProto.DESCRIPTOR.fields_by_name", {"pieces", "trainer_spec"}),
    ],
    "protobuf": [("google.protobuf.message", "DecodeError", set())],
    "num2words": [("num2words", "CONVERTER_CLASSES", {"en", "am", "es"})],
    "pysbd": [("pysbd.languages", "LANGUAGE_CODES", {"en", "am"})],
    "tensorboard": [
        (
            "tensorboard.backend.event_processing.event_accumulator",
            "EventAccumulator.__init__",
            {"path", "size_guidance"},
        )
    ],
    "silero-vad": [("silero_vad", "load_silero_vad", {"onnx"})],
    "espeakng-loader": [
        ("espeakng_loader", "get_library_path", set()),
        ("espeakng_loader", "get_data_path", set()),
    ],
    "gradio": [
        # Overridden by page/app.py and page/screen_data.py.
        ("gradio.blocks", "Blocks.preprocess_data", {"block_fn"}),
        ("gradio.components", "File.preprocess", {"payload"}),
        ("gradio.blocks", "Blocks.launch", {"app_kwargs", "max_file_size", "allowed_paths", "mcp_server"}),
    ],
}  # fmt: skip
OPTIONAL = ("espeakng_loader", "gradio")
SYMBOLS = [(module, symbol, names) for symbols in REACHED_INTO.values() for module, symbol, names in symbols]


def requirements() -> dict[str, Requirement]:
    """Return all requirements in setup.cfg, extras included, by package name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in parsed}


def locked() -> list[Requirement]:
    """Return the requirements in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def names_of(value: object) -> set[str]:
    """Return the members and fields of a class, the parameters of a function, or the keys of a dictionary."""
    if isinstance(value, type):
        return {*dir(value), *getattr(value, "__dataclass_fields__", {})}
    if callable(value):
        return set(inspect.signature(value).parameters)
    return set(value)


@pytest.mark.parametrize(("module", "symbol", "names"), SYMBOLS, ids=[f"{entry[0]}.{entry[1]}" for entry in SYMBOLS])
def test_the_symbols_that_we_use_exist(module, symbol, names):
    if module.split(".")[0] in OPTIONAL:
        pytest.importorskip(module.split(".")[0], reason="only with an extra")
    value = importlib.import_module(module)
    for part in symbol.split("."):
        value = getattr(value, part)
    assert names - names_of(value) == set()


@pytest.mark.parametrize("package", REACHED_INTO)
def test_packages_have_upper_bounds(package):
    operators = {specifier.operator for specifier in requirements()[package].specifier}
    assert operators & {"<", "<=", "=="}, f"{package} has no upper bound in setup.cfg."


def test_the_lock_is_within_the_bounds():
    wanted = requirements()
    for requirement in locked():
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        if requirement.name in wanted:
            assert wanted[requirement.name].specifier.contains(pin.version), f"{requirement}: Run make lock."
    missing = set(wanted) - {requirement.name for requirement in locked()}
    assert not missing, "Run make lock."


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_has_one_version_per_package(python):
    environment = {
        "python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux", "os_name": "posix",
        "platform_machine": "x86_64", "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip
    pinned = [pin.name for pin in locked() if pin.marker is None or pin.marker.evaluate(environment)]
    assert len(pinned) == len(set(pinned))
    assert set(requirements()) <= set(pinned)


def test_the_tested_versions_are_those_of_the_lock():
    newest: dict[str, Version] = {}
    for requirement in locked():
        (pin,) = requirement.specifier
        newest[requirement.name] = max(newest.get(requirement.name, Version("0")), Version(pin.version))
    assert {package: str(newest[package]) for package in TESTED} == TESTED
    # Training does not need the packages of the extras `demo` and `ui`.
    assert set(TESTED) == set(REACHED_INTO) - {"espeakng-loader", "gradio"}
