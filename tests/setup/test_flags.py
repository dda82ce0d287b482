"""Flags, overrides and recorded values are combined into one configuration. Errors are one clear line."""

import shutil

import pytest
import torch
from runs import configured

from xtts_extend.run.config import NewLanguageConfig


def configure(*argv: object) -> NewLanguageConfig:
    return configured(argv)[1]


def test_architecture_comes_from_the_base(corpus):
    config = configure(*corpus.flags())
    assert (config.model_args.gpt_layers, config.model_args.gpt_n_model_channels) == (2, 64)
    assert config.model_args.gpt_num_audio_tokens == 1026
    assert config.model_args.gpt_use_perceiver_resampler is True
    assert config.languages == ["en", "es", "am"]
    # The base's training values are ignored.
    assert (config.optimizer, config.epochs, config.lr) == ("AdamW", 2, 1e-3)


def test_resume_uses_recorded_values(tuned_run):
    config = configure("--checkpoint", tuned_run)
    assert config.lr == 1e-3
    assert config.optimizer_params["weight_decay"] == 0.05
    assert config.model_args.gpt_loss_text_ce_weight == 0.5
    assert (config.training_seed, config.batch_size, config.grad_accum_steps, config.max_steps) == (7, 2, 1, 2)
    assert config.model_args.tokenizer_file == str(tuned_run / "vocab.json")


def test_precedence_of_overrides_flags_and_recorded_values(tuned_run):
    flags, overrides = ["--learning-rate", 0.5, "--seed", 9], ["--coqpit.lr=0.25", "--coqpit.save_step", 3]
    config = configure("--checkpoint", tuned_run, *flags, *overrides)
    assert (config.lr, config.training_seed, config.save_step) == (0.25, 9, 3)
    config = configure("--checkpoint", tuned_run, "--weight-decay", "0.2", "--coqpit.optimizer_params.weight_decay=0.3")
    assert config.optimizer_params["weight_decay"] == 0.3


def test_stock_run_resumes_in_a_folder_beside_its_own(stock_file, corpus, tmp_path):
    config = configure(*corpus.stock_flags(stock_file.parent))
    assert config.output_path == str(stock_file.parent.parent)
    # A file that was moved out of its run folder must not put runs beside, say, the user's home folder.
    moved = shutil.copyfile(stock_file, tmp_path / "checkpoint_4.pth")
    assert configure(*corpus.stock_flags(moved)).output_path == "runs"


def test_amp_sets_two_configuration_values(corpus):
    config = configure(*corpus.flags(amp="bf16"))
    assert (config.mixed_precision, config.precision) == (True, "bf16")
    assert configure(*corpus.flags(amp="none")).mixed_precision is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"language": "amm"}, "no tag [amm]"),
        ({"language": None}, "--language is missing"),
        ({"base_dir": "/nowhere/at all"}, "does not exist"),
        ({"checkpoint": "/nowhere/ሞዴል.pth"}, "does not exist"),
        ({"train_manifest": "/nowhere/train.csv"}, "There is no manifest file '/nowhere/train.csv'"),
        ({"train_manifest": None}, "--train-manifest is missing"),
        ({"vocab": "/nowhere/vocab.json"}, "cannot be read: No such file"),
        pytest.param(
            {"amp": "fp16"}, "needs a GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
        ),
        ({"test_sentence": "am:/nowhere/voice.wav:ሰላም"}, "no such file"),
        ({"language_weights": "am=1,en=2"}, "language weights are for am, en, but the samples are in am"),
    ],
)
def test_invalid_flags(corpus, fails, tmp_path, flags, message):
    code, printed = fails(corpus.flags(output_dir=tmp_path, **flags))
    assert code == 2
    assert message in printed
    assert printed.startswith("error: ")


def test_neither_base_nor_checkpoint(fails):
    code, message = fails(["--language", "am"])
    assert code == 2
    assert "Neither --base-dir nor --checkpoint" in message


@pytest.mark.parametrize(
    "flags", [["--rank", "16"], ["--epoch", "3"], ["--batch-size", "0"], ["--learning-rate", "nan"]]
)
def test_abbreviated_and_invalid_flags_are_rejected(recipe, flags):
    """TrainerArgs accepts abbreviations and flags of its own: `--rank 16` would set the process rank."""
    with pytest.raises(SystemExit) as caught:
        recipe(flags)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer_params.wait_decay=0.1", "unexpected keyword argument 'wait_decay'"),
        ("optimizer=AdamX", "Cannot create the optimizer AdamX"),
        ("lr_scheduler=NopeLR", "the schedule NopeLR"),
        ("lr_scheduler=StepLR", "step_size"),
        ("dashboard_logger=foo", "one of tensorboard, wandb"),
        ("test_sentences=[1]", "an object with text, language"),
        ("audio.sample_rate=0", "Keep the base's value"),
    ],
)
def test_invalid_overrides(corpus, fails, tmp_path, override, message):
    code, printed = fails([*corpus.flags(output_dir=tmp_path), f"--coqpit.{override}"])
    assert code == 2
    assert message in printed
    assert not any(tmp_path.glob("xtts-*")), "A failed start left a run folder."
