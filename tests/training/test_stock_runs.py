"""Runs of the stock Trainer resume exactly, with all optimizers, schedules and settings that it supports."""

from __future__ import annotations

import pytest
import torch
from checkpoints import edited, of_early_trainer
from runs import require_equal, stock_run
from trainer import Trainer

from xtts_extend.model.blank import BlankWeights
from xtts_extend.run.config import copy_recorded

BETAS = {"betas": [0.9, 0.96], "weight_decay": 0.01}
#: Settings of `stock_run`, by test id.
SETTINGS = {
    "SGD with momentum, all alike": {
        "optimizer": "SGD", "optimizer_params": {"momentum": 0.9}, "optimizer_wd_only_on_weights": False,
    },
    "evaluated, no schedule": {"evaluates": True, "lr_scheduler": None, "lr_scheduler_params": {}},
    "coqui's RAdam, by epoch, fp16": {
        "optimizer": "radam", "optimizer_params": BETAS, "scheduler_after_epoch": True, "mixed_precision": True,
    },
    "command line, no schedule": {
        "command_line": ["--coqpit.epochs", "2"], "lr_scheduler": None, "lr_scheduler_params": {},
    },
    "clipped": {"grad_clip": 0.1},
    "AdamW, all alike": {"optimizer_wd_only_on_weights": False},
    "AdamW, amsgrad, foreach": {"optimizer_params": {**BETAS, "amsgrad": True, "foreach": True}},
    "Adam": {"optimizer": "Adam", "optimizer_params": BETAS},
    "NAdam": {"optimizer": "NAdam", "optimizer_params": BETAS},
    "Adagrad": {"optimizer": "Adagrad", "optimizer_params": {"weight_decay": 0.01, "lr_decay": 0.1}},
    "Adafactor": {"optimizer": "Adafactor", "optimizer_params": {"weight_decay": 0.01}},
    "ASGD": {"optimizer": "ASGD", "optimizer_params": {"weight_decay": 0.01}},
    "RMSprop": {"optimizer": "RMSprop", "optimizer_params": {"weight_decay": 0.01, "centered": True, "momentum": 0.5}},
    "Rprop": {"optimizer": "Rprop", "optimizer_params": {}, "optimizer_wd_only_on_weights": False},
    "Adadelta": {"optimizer": "Adadelta", "optimizer_params": {"weight_decay": 0.0}},
    "Adamax": {"optimizer": "Adamax", "optimizer_params": {"weight_decay": 0.0}},
    "SGD that keeps nothing": {"optimizer": "SGD", "optimizer_params": {"weight_decay": 0.01}},
    "Noam": {"lr_scheduler": "NoamLR", "lr_scheduler_params": {"warmup_steps": 3}},
    "by epoch": {"scheduler_after_epoch": True},
    "bf16": {"mixed_precision": True, "precision": "bf16"},
    "scaler without a GPU": {"use_grad_scaler": True},
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="command line"),
        *(pytest.param(settings, id=name, marks=pytest.mark.slow) for name, settings in SETTINGS.items()),
    ],
)
def test_the_next_update_matches_stock(settings, healthy_stock, resumed, corpus, tmp_path, monkeypatch):
    """With the same gradients, stock's optimizer and ours produce the same weights, state and learning rates."""
    file = stock_run(corpus, tmp_path / "stock", monkeypatch, **settings) if settings else healthy_stock
    ours = resumed(file, tmp_path / "ours")
    assert (ours.position.step, ours.position.epoch, ours.position.batch) == (5, 1, 0)
    saved = torch.load(file, weights_only=True)
    require_equal(ours.optimizer[0].state_dict(), saved["optimizer"][0])

    stock = Stock(saved)
    generator = torch.Generator().manual_seed(1)
    our_parameters = dict(ours.model.xtts.gpt.named_parameters())
    for name, parameter in stock.gpt.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        our_parameters[name].grad = parameter.grad.clone()
    stock.update()
    ours._updater._optimizer_step()

    assert our_parameters.keys() == dict(stock.gpt.named_parameters()).keys()
    for name, parameter in stock.gpt.named_parameters():
        assert torch.equal(our_parameters[name], parameter), name
    require_equal(ours.optimizer[0].state_dict(), stock.optimizer.state_dict())
    if stock.scheduler is not None:
        require_equal(ours.scheduler[0].state_dict(), stock.scheduler.state_dict())
    ours.fit()
    assert ours.position.step == 6


def test_a_checkpoint_of_an_early_release_resumes(stock_file, resumed, tmp_path, caplog):
    saved = torch.load(stock_file, weights_only=True)
    caplog.set_level("INFO", "trainer")
    file = edited(stock_file, tmp_path / "before", of_early_trainer)
    ours = resumed(file, tmp_path / "ours")
    assert (ours.position.step, ours.position.epoch, ours.position.batch) == (5, 1, 0)
    require_equal(ours.scheduler[0].state_dict(), saved["scheduler"][0])
    found = ours.optimizer[0].state_dict()
    require_equal(found["state"], saved["optimizer"][0]["state"])
    assert [group["lr"] for group in found["param_groups"]] == saved["scheduler"][0]["_last_lr"]
    state = ours.model.checkpoint_state()
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in state.items())
    assert "The checkpoint contains no schedule state, so StepLR was advanced by 5 updates." in caplog.text


@pytest.fixture
def resumed(corpus, trainer_of):
    """A function that returns the recipe's trainer for one more step of a stock run, without passing its settings."""
    return lambda file, output: trainer_of(corpus.stock_flags(file, epochs=None, max_steps=6, output_dir=output))


class Stock:
    """Optimizer and scheduler of coqui's own model, restored from a checkpoint."""

    def __init__(self, saved):
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig

        self.config = GPTTrainerConfig()
        copy_recorded(self.config, saved["config"])
        self.config.model_args.gpt_checkpoint = ""
        with BlankWeights():
            model = GPTTrainer(self.config)
        # The shared run has no DVAE.
        model.load_state_dict(saved["model"], strict=False)
        self.gpt = model.xtts.gpt
        self.optimizer = model.get_optimizer()
        self.scheduler = model.get_scheduler([self.optimizer])
        self.optimizer.load_state_dict(saved["optimizer"][0])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"][0])

    def update(self):
        """Make an update as `Trainer.optimize` does."""
        grad_clip = Trainer._set_grad_clip_per_optimizer(self.config, None)
        if grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(Trainer.master_params(self.optimizer), grad_clip)
        self.optimizer.step()
        if self.scheduler is not None and not self.config.scheduler_after_epoch:
            self.scheduler.step()
