"""Models of transformers, given as folders or Hugging Face model IDs: languages of their adapters, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtts_extend.data.language_names import codes_of
from xtts_extend.errors import ConfigError

#: Exceptions that transformers raises for models that it cannot load.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def loading_error(flag: str, model: str, kind: str, error: Exception) -> ConfigError:
    """Return the error for a model that transformers cannot load.

    Args:
        flag: Flag that the model was passed with.
        model: Folder or Hugging Face model ID.
        kind: The expected kind of model, such as "speech recognition".
        error: Exception that transformers raised.
    """
    if Path(model).exists():
        advice = (
            "The folder must contain the model as transformers saves it: config.json, the weights, "
            "preprocessor_config.json and the tokenizer's files. Choose a different model."
        )
    else:
        advice = (
            "If this machine has no access to huggingface.co, or HF_HUB_OFFLINE is set, run "
            f"`hf download {model} --local-dir FOLDER` on a machine with access, copy the folder, and pass "
            f"{flag} FOLDER. Otherwise, check the spelling or choose a different model."
        )
    return ConfigError(f"transformers cannot load {flag} {model} as a {kind} model: {error}. {advice}")


def load_language_adapter(network: Any, tokenizer: Any, language: str, flag: str, model: str) -> None:
    """Switch a model such as facebook/mms-1b-all to a language. Models for one language stay as they are.

    MMS has a separate adapter and alphabet for each language, and its default is English.

    Args:
        network: CTC model of transformers.
        tokenizer: The model's tokenizer.
        language: Code of the language, with two or three letters or as the model spells it.
        flag: Flag that the model was passed with.
        model: Folder or Hugging Face model ID.

    Raises:
        ConfigError: The model does not support the language, or the adapter cannot be loaded.
    """
    # A fine-tuned MMS has a plain alphabet, and its language's adapter is part of its weights.
    if not getattr(network.config, "adapter_attn_dim", None) or tokenizer.target_lang is None:
        return
    supported = list(tokenizer.vocab)
    code = next((code for code in (language, *codes_of(language)) if code in supported), None)
    if code is None:
        # Some languages have an adapter for each script, such as uig-script_arabic.
        scripts = [name for code in codes_of(language) for name in supported if name.startswith(f"{code}-script_")]
        if len(scripts) != 1:
            choice = (
                f"It has adapters for several scripts; pass one of them with --asr-language: {', '.join(scripts)}."
                if scripts
                else "Its language codes have three letters (ISO 639-3). Pass the correct code with --asr-language, "
                "for example amh."
            )
            raise ConfigError(f"{flag} {model} does not support the language {language!r}. {choice}")
        code = scripts[0]
    try:
        tokenizer.set_target_lang(code)
        network.load_adapter(code)
    except LOADING_ERRORS as error:
        raise loading_error(flag, model, f"{code} speech recognition", error) from error
