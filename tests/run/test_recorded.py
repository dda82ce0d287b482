"""Checkpoint values are interpreted as the trainer that wrote them meant them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from checkpoints import at_step, edited

from xtts_extend.errors import ConfigError
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.recorded import TrainingCheckpoint

ROWS = {"rows": 3, "frozen": True, "digests": {}}
FP16 = {"mixed_precision": True, "precision": "fp16", "use_grad_scaler": True}


def read(path="checkpoint_4.pth", **content):
    """Return a TrainingCheckpoint with the given content."""
    return TrainingCheckpoint.of(content, SimpleNamespace(path=str(path), step=5, epoch=0))


def read_stock_config(config, **content):
    return read(**{"config": config, "optimizer": [], "scheduler": [], "scaler": None, **content}).config


@pytest.mark.parametrize(
    ("config", "content", "expected"),
    [
        pytest.param({"grad_clip": None}, {}, {"grad_clip": 0.0}, id="None of the command line"),
        pytest.param({"lr_scheduler_params": None}, {}, {"lr_scheduler_params": {}}, id="None for a dict"),
        pytest.param({"precision": None}, {}, {"precision": "fp16"}, id="no precision"),
        pytest.param({"lr": 1e-4}, {}, {"scheduler_after_epoch": True, "eval_batch_size": 16}, id="missing"),
        pytest.param({"run_eval_steps": None}, {}, {"run_eval_steps": None}, id="None that means none"),
        pytest.param(FP16, {}, {"precision": "bf16", "use_grad_scaler": False}, id="fp16 without a GPU"),
        pytest.param(FP16, {"scaler": {}}, {"precision": "bf16", "use_grad_scaler": False}, id="scaler that was off"),
        pytest.param(FP16, {"scaler": {"scale": 65536.0}}, FP16, id="fp16"),
        pytest.param({"logger_uri": "/theirs"}, {}, {"logger_uri": None}, id="folder of their curves"),
        pytest.param(
            {"test_sentences": [{"speaker_wav": ["a.wav"]}, {"speaker_wav": ["a.wav", "b.wav"]}]},
            {},
            {"test_sentences": [{"speaker_wav": "a.wav"}, {"speaker_wav": ["a.wav", "b.wav"]}]},
            id="voices",
        ),
        pytest.param(
            {"model_args": {"max_wav_length": 99, "max_text_length": None}},
            {"xtts_extend": {"version": 2, "base_rows": ROWS, "state": {}}},
            {"model_args": {"max_wav_length": 99, "max_text_length": None}},
            id="ours",
        ),
        pytest.param({"adapter": "lora"}, {}, {"voice": "frozen"}, id="adapter of an older release"),
    ],
)
def test_recorded_values_are_interpreted(config, content, expected):
    values = read_stock_config(config, **content)
    assert {key: values[key] for key in expected} == expected


def test_nested_values_get_defaults():
    values = read_stock_config({"model_args": {"max_wav_length": None, "gpt_layers": 3}})["model_args"]
    default = NewLanguageConfig().model_args.max_wav_length
    assert values.items() >= {"max_wav_length": default, "gpt_layers": 3}.items()


STATE = {"state": {0: {"step": 5}}, "param_groups": []}


@pytest.mark.parametrize("optimizer", [STATE, [STATE], {"default": STATE}], ids=["by itself", "in a list", "by name"])
@pytest.mark.parametrize("others", [{}, {"scheduler": None, "scaler": None}, {"scheduler": [], "scaler": []}])
def test_optimizers_of_all_releases(optimizer, others):
    """Before 0.4, the Trainer saved one optimizer, a list, or several by name; before 0.3, it saved no schedule."""
    read_back = read(config={"lr": 1.0}, optimizer=optimizer, **others)
    assert (read_back.optimizer, read_back.scheduler, read_back.updates) == ([STATE], [], {5})
    assert read_back.scaler is None


SCALER = {"scale": 65536.0, "growth_factor": 2.0}


@pytest.mark.parametrize("saved", [SCALER, [SCALER]], ids=["by itself", "in a list"])
def test_scalers_of_all_releases(saved):
    assert read(config=FP16, optimizer=[], scaler=saved).scaler == SCALER


def test_missing_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"no 'config' in it.* config\.json from its run folder"):
        read(tmp_path / "checkpoint_4.pth", model={}, optimizer=STATE).require_config()


def test_settings_of_a_base_directory_are_ignored(tmp_path):
    (tmp_path / "config.json").write_text('{"lr": 0.1, "optimizer": "radam"}')
    with pytest.raises(ConfigError, match="does not record the settings"):
        read(tmp_path / "checkpoint_4.pth", model={}, optimizer=STATE).require_config()


def test_settings_are_read_from_the_run_folder(tmp_path, caplog):
    caplog.set_level("INFO", "trainer")
    (tmp_path / "config.json").write_text('{"lr": 0.1, "optimizer_wd_only_on_weights": true, "grad_clip": null}')
    read_back = read(tmp_path / "checkpoint_4.pth", model={}, optimizer=STATE)
    read_back.require_config()
    recorded = read_back.config
    assert (recorded["lr"], recorded["grad_clip"], recorded["optimizer_wd_only_on_weights"]) == (0.1, 0.0, True)
    assert "Using the settings in the config.json beside it" in caplog.text


@pytest.mark.parametrize(("by_epoch", "updates"), [(True, set()), (False, {7})])
def test_updates_are_counted_by_the_schedule_if_the_optimizer_has_no_count(by_epoch, updates):
    optimizer = {"state": {0: {"momentum_buffer": None}}, "param_groups": []}
    config = {"scheduler_after_epoch": by_epoch}
    assert read(config=config, optimizer=[optimizer], scheduler=[{"last_epoch": 7}]).updates == updates


def test_unrecorded_accumulation_must_be_passed(stock_file, corpus, fails, tmp_path):
    file = edited(stock_file, tmp_path, at_step(40))
    code, message = fails(corpus.stock_flags(file, output_dir=tmp_path))
    assert (code, "5 updates were made in about 41 batches" in message) == (2, True)
