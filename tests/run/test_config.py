"""Configuration values: overrides, and comparison with recorded values."""

import pytest

from xtts_extend.errors import ConfigError
from xtts_extend.run.config import NewLanguageConfig, apply_override, changes


@pytest.mark.parametrize(
    ("override", "is_applied"),
    [
        ("lr=6e-6", lambda c: c.lr == 6e-6),
        ("lr=1", lambda c: c.lr == 1.0 and type(c.lr) is float),
        ("mixed_precision=true", lambda c: c.mixed_precision is True),
        ("run_eval=False", lambda c: c.run_eval is False),
        ("run_name=7", lambda c: c.run_name == "7"),
        ("max_steps=null", lambda c: c.max_steps is None),
        ('languages=["en"]', lambda c: c.languages == ["en"]),
        ("model_args.max_text_length=300", lambda c: c.model_args.max_text_length == 300),
        ("optimizer_params.eps=1e-6", lambda c: c.optimizer_params["eps"] == 1e-6),
        ("optimizer_params.betas.1=0.9", lambda c: c.optimizer_params["betas"] == [0.9, 0.9]),
        ('test_sentences=[{"text": "a=b"}]', lambda c: c.test_sentences == [{"text": "a=b"}]),
    ],
)
def test_overrides(override, is_applied):
    config = NewLanguageConfig(max_steps=9)
    assert not is_applied(config)
    apply_override(config, f"--coqpit.{override}")
    assert is_applied(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lrr=1", "no such key"),
        ("model_args.nothing=1", "no such key"),
        ("optimizer_params.betas.7=1", "no such key"),
        ("lr=abc", "expected float, got abc"),
        ("epochs=1.5", r"expected int, got 1\.5"),
        ("mixed_precision=2", "expected bool, got 2"),
        ("optimizer_params=3", "expected dict or list or null, got 3|expected dict, got 3"),
        ("lr", "has no value"),
    ],
)
def test_invalid_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        apply_override(NewLanguageConfig(), f"--coqpit.{override}")


def test_changes_are_listed_with_both_values():
    config = NewLanguageConfig(batch_size=3)
    recorded = {"batch_size": 2, "lr": config.lr, "model_args": {"max_text_length": 100}}
    assert changes(recorded, config) == ["batch_size: 2 → 3", "model_args.max_text_length: 100 → 200"]
