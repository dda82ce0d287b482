"""Runs of the stock Trainer, made in the ways that it allows, go on as it would let them."""

from __future__ import annotations

import datetime
from collections import defaultdict

import numpy as np
import pytest
import torch
from runs import edited, ready, require_equal, stock_run
from trainer import Trainer

from xtts_extend.run.config import take_recorded
from xtts_extend.training.trainer import ResumableTrainer

BETAS = {"betas": [0.9, 0.96], "weight_decay": 0.01}
#: How a run of the stock Trainer was made: settings of `stock_run`.
WAYS = {
    "command line": {"command_line": ["--coqpit.lr", "1e-3"]},
}
RARE_WAYS = {
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
        *(pytest.param(way, id=name) for name, way in WAYS.items()),
        *(pytest.param(way, id=name, marks=pytest.mark.slow) for name, way in RARE_WAYS.items()),
    ],
)
def test_the_next_update_is_stocks(settings, corpus, tmp_path, monkeypatch):
    """From the same gradients, stock's optimizer and ours make the same weights, state and learning rates."""
    file = stock_run(corpus, tmp_path / "stock", monkeypatch, **settings)
    ours = resumed(corpus, file, output_dir=tmp_path / "ours")
    assert (ours.position.step, ours.position.epoch, ours.position.batch) == (5, 1, 0)
    saved = torch.load(file, weights_only=True)
    require_equal(ours.optimizer[0].state_dict(), saved["optimizer"][0])

    theirs = Stock(saved)
    generator = torch.Generator().manual_seed(1)
    own = dict(ours.model.xtts.gpt.named_parameters())
    for name, parameter in theirs.gpt.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        own[name].grad = parameter.grad.clone()
    theirs.update()
    ours._updater._move()

    assert own.keys() == dict(theirs.gpt.named_parameters()).keys()
    for name, parameter in theirs.gpt.named_parameters():
        assert torch.equal(own[name], parameter), name
    require_equal(ours.optimizer[0].state_dict(), theirs.optimizer.state_dict())
    if theirs.scheduler is not None:
        require_equal(ours.scheduler[0].state_dict(), theirs.scheduler.state_dict())
    ours.fit()
    assert ours.position.step == 6


def test_a_checkpoint_of_an_early_release_resumes(stock_file, corpus, tmp_path, caplog):
    """As the Trainer 0.0.36 saved it, distributed and compiled; with what scripts of their own leave in such files."""
    saved = torch.load(stock_file, weights_only=True)

    def as_before(content):
        del content["scheduler"], content["scaler"]
        optimizer = content["optimizer"][0]
        for group in optimizer["param_groups"]:
            # none of them was there in torch 2.0
            del group["decoupled_weight_decay"], group["fused"]
        for moments in optimizer["state"].values():
            moments["step"] = int(moments["step"])
        optimizer["state"] = defaultdict(dict, optimizer["state"])
        names = {name: f"module.{name.replace('.gpt.h.', '.gpt._orig_mod.h.')}" for name in content["model"]}
        content |= {
            "model": {names[name]: tensor for name, tensor in content["model"].items()},
            "optimizer": optimizer,
            "model_loss": np.float32(6.5),
            "step": np.int64(content["step"]),
            "date": datetime.date(2023, 12, 13),
        }

    caplog.set_level("INFO", "trainer")
    file = edited(stock_file, tmp_path / "before", as_before)
    ours = resumed(corpus, file, output_dir=tmp_path / "ours")
    assert (ours.position.step, ours.position.epoch, ours.position.batch) == (5, 1, 0)
    require_equal(ours.scheduler[0].state_dict(), saved["scheduler"][0])
    found = ours.optimizer[0].state_dict()
    require_equal(found["state"], saved["optimizer"][0]["state"])
    assert [group["lr"] for group in found["param_groups"]] == saved["scheduler"][0]["_last_lr"]
    state = ours.model.checkpoint_state()
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in state.items())
    assert "It does not record its schedule: StepLR is set to where it is after 5 updates." in caplog.text


def resumed(corpus, file, **flags) -> ResumableTrainer:
    """The trainer that the recipe makes of a stock run for one more step, with none of its settings given."""
    given = {
        **dict.fromkeys(("batch_size", "learning_rate", "epochs", "save_step", "amp", "grad_accum_steps")),
        **flags,
    }
    return ready(corpus.flags(checkpoint=file, max_steps=6, **given))


class Stock:
    """Optimizer and scheduler of coqui's own model with the state of a checkpoint, and their update."""

    def __init__(self, saved):
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig

        self.config = GPTTrainerConfig()
        take_recorded(self.config, saved["config"])
        self.config.model_args.gpt_checkpoint = ""
        model = GPTTrainer(self.config)
        model.load_state_dict(saved["model"])
        self.gpt = model.xtts.gpt
        self.optimizer = model.get_optimizer()
        self.scheduler = model.get_scheduler([self.optimizer])
        self.optimizer.load_state_dict(saved["optimizer"][0])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"][0])

    def update(self):
        """As `Trainer.optimize`."""
        grad_clip = Trainer._set_grad_clip_per_optimizer(self.config, None)
        if grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(Trainer.master_params(self.optimizer), grad_clip)
        self.optimizer.step()
        if self.scheduler is not None and not self.config.scheduler_after_epoch:
            self.scheduler.step()
