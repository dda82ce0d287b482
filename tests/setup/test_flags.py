"""Flags, overrides and what a checkpoint recorded become one configuration, or one clear line."""

import shutil

import pytest
import torch
from runs import configured

from xtts_extend.run.config import NewLanguageConfig


def configure(*argv: object) -> NewLanguageConfig:
    return configured(argv)[1]


def test_the_architecture_is_the_bases(corpus):
    config = configure(*corpus.flags())
    assert (config.model_args.gpt_layers, config.model_args.gpt_n_model_channels) == (2, 64)
    assert config.model_args.gpt_num_audio_tokens == 1026
    assert config.model_args.gpt_use_perceiver_resampler is True
    assert config.languages == ["en", "es", "am"]
    # what the base's config says about training does not count
    assert (config.optimizer, config.epochs, config.lr) == ("AdamW", 2, 1e-3)


def test_a_resume_takes_what_was_recorded(tuned_run):
    config = configure("--checkpoint", tuned_run)
    assert config.lr == 1e-3
    assert config.optimizer_params["weight_decay"] == 0.05
    assert config.model_args.gpt_loss_text_ce_weight == 0.5
    assert (config.training_seed, config.batch_size, config.grad_accum_steps, config.max_steps) == (7, 2, 1, 2)
    assert config.model_args.tokenizer_file == str(tuned_run / "vocab.json")


def test_overrides_beat_flags_and_flags_beat_the_record(tuned_run):
    flags, overrides = ["--learning-rate", 0.5, "--seed", 9], ["--coqpit.lr=0.25", "--coqpit.save_step", 3]
    config = configure("--checkpoint", tuned_run, *flags, *overrides)
    assert (config.lr, config.training_seed, config.save_step) == (0.25, 9, 3)
    config = configure("--checkpoint", tuned_run, "--weight-decay", "0.2", "--coqpit.optimizer_params.weight_decay=0.3")
    assert config.optimizer_params["weight_decay"] == 0.3


def test_new_folders_of_a_stock_run_lie_beside_its_own(stock_file, corpus, tmp_path):
    beside = configure(*corpus.stock_flags(stock_file.parent))
    assert beside.output_path == str(stock_file.parent.parent)
    # moved out of its folder, it has no place beside it: not the parent of, say, a home folder
    moved = shutil.copyfile(stock_file, tmp_path / "checkpoint_4.pth")
    assert configure(*corpus.stock_flags(moved)).output_path == "runs"


def test_amp_is_two_values(corpus):
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
        ({"train_manifest": "/nowhere/train.csv"}, "No manifest '/nowhere/train.csv'"),
        ({"train_manifest": None}, "--train-manifest is missing"),
        ({"vocab": "/nowhere/vocab.json"}, "cannot be read: No such file"),
        pytest.param(
            {"amp": "fp16"}, "needs a GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it works here")
        ),
        ({"test_sentence": "am:/nowhere/voice.wav:ሰላም"}, "no such file"),
        ({"language_weights": "am=1,en=2"}, "language weights are for am, en, but the samples are in am"),
    ],
)
def test_bad_flags_are_one_clear_line(corpus, fails, tmp_path, flags, message):
    code, printed = fails(corpus.flags(output_dir=tmp_path, **flags))
    assert code == 2
    assert message in printed
    assert printed.startswith("error: ")


def test_nothing_to_start_from(fails):
    code, message = fails(["--language", "am"])
    assert code == 2
    assert "Neither --base-dir nor --checkpoint" in message


@pytest.mark.parametrize(
    "flags", [["--rank", "16"], ["--epoch", "3"], ["--batch-size", "0"], ["--learning-rate", "nan"]]
)
def test_flags_are_not_guessed(recipe, flags):
    """TrainerArgs accepts abbreviations and its own names: `--rank 16` became the process rank."""
    with pytest.raises(SystemExit) as caught:
        recipe(flags)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer_params.wait_decay=0.1", "unexpected keyword argument 'wait_decay'"),
        ("optimizer=AdamX", "The optimizer AdamX"),
        ("lr_scheduler=NopeLR", "the schedule NopeLR"),
        ("lr_scheduler=StepLR", "step_size"),
        ("dashboard_logger=foo", "one of tensorboard, wandb"),
        ("test_sentences=[1]", "an object with text, language"),
        ("audio.sample_rate=0", "leave it as the base's"),
    ],
)
def test_overrides_of_which_nothing_can_be_made(corpus, fails, tmp_path, override, message):
    code, printed = fails([*corpus.flags(output_dir=tmp_path), f"--coqpit.{override}"])
    assert code == 2
    assert message in printed
    assert not any(tmp_path.glob("xtts-*")), "a refused start leaves no run folder"
