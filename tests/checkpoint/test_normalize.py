"""Tensors get XTTS's names whatever wrapped the model, and counts become integers whatever their type was."""

import numpy as np
import pytest
import torch

from xtts_extend import inspect_checkpoint
from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.errors import CheckpointError

NAMES = ("text_embedding.weight", "gpt.h.0.ln_1.weight", "gpt.h.1.ln_1.weight", "gpt.h.10.ln_1.weight")
OURS = {f"xtts.gpt.{name}": torch.full((3, 2), float(index)) for index, name in enumerate(NAMES)}
PUBLISHED = {name.removeprefix("xtts."): tensor for name, tensor in OURS.items()}


def renamed(state, old, new):
    return {name.replace(old, new, 1): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("state", "plain"),
    [
        pytest.param(OURS, OURS, id="coqui's trainer"),
        pytest.param(PUBLISHED, PUBLISHED, id="published"),
        pytest.param(renamed(OURS, "", "module."), OURS, id="DistributedDataParallel"),
        pytest.param(renamed(PUBLISHED, "", "module."), PUBLISHED, id="published, DistributedDataParallel"),
        pytest.param(renamed(OURS, "", "_orig_mod."), OURS, id="compiled"),
        pytest.param(renamed(OURS, "", "module._orig_mod."), OURS, id="compiled and distributed"),
        pytest.param(renamed(OURS, "", "_orig_mod.module."), OURS, id="distributed and compiled"),
        pytest.param(renamed(OURS, "xtts.", "xtts._orig_mod."), OURS, id="Xtts compiled"),
        pytest.param(renamed(OURS, "xtts.gpt.", "xtts.gpt.module."), OURS, id="GPT distributed"),
        pytest.param(renamed(OURS, "gpt.gpt.", "gpt.gpt._orig_mod."), OURS, id="transformer compiled"),
        pytest.param(renamed(OURS, ".h.1.", ".h.1._orig_mod."), OURS, id="a layer compiled"),
        pytest.param(renamed(OURS, "", "_forward_module."), OURS, id="DeepSpeed"),
        pytest.param(
            renamed(OURS, ".ln_1.", "._fsdp_wrapped_module._checkpoint_wrapped_module.ln_1."), OURS, id="FSDP"
        ),
        pytest.param(renamed(PUBLISHED, "", "model."), PUBLISHED, id="in somebody's own module"),
        pytest.param(renamed(OURS, "", "module.tts_model."), OURS, id="in somebody's own module, distributed"),
        pytest.param(
            {name.removeprefix("gpt."): tensor for name, tensor in PUBLISHED.items()}, PUBLISHED, id="GPT alone"
        ),
        pytest.param(renamed(PUBLISHED, "gpt.", "model."), PUBLISHED, id="GPT alone, in somebody's own module"),
        pytest.param(renamed(OURS, "", "gpt_trainer."), OURS, id="trainer in somebody's own module"),
    ],
)
@pytest.mark.parametrize("bare", [False, True], ids=["", "a bare state dict"])
def test_prefixes_are_removed(tmp_path, state, plain, bare):
    file = tmp_path / "a.pth"
    torch.save(state if bare else {"model": state, "step": 1}, file)
    content = load_pickled(file, map_location="cpu")
    found = content if bare else content["model"]
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    info = inspect_checkpoint(file)
    assert (info.kind, info.vocab_size, info.architecture.layers) == ("base", 3, 3)


def test_weight_norm_of_early_releases():
    """coqui-tts 0.20 used torch's first weight norm in the vocoder; current releases use its parametrization."""
    from torch.nn.utils import parametrizations, weight_norm

    from xtts_extend.checkpoint.normalize import normalize_content

    layer = torch.nn.Conv1d(2, 3, 1)
    old, new = weight_norm(layer).state_dict(), parametrizations.weight_norm(torch.nn.Conv1d(2, 3, 1)).state_dict()
    found = normalize_content(old, None)
    assert found.keys() == new.keys()
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in new.items()
    }


def test_two_tensors_with_the_same_name(tmp_path):
    torch.save({"model": {**OURS, "module.xtts.gpt.text_embedding.weight": torch.zeros(3, 2)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"two tensors that are both named xtts\.gpt\.text_embedding\.weight"):
        inspect_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "name", ["gpt.text_embedding.weight", "text_embedding.weight", "module.gpt.text_embedding.weight"]
)
def test_a_file_without_layers_is_not_an_xtts_model(tmp_path, name):
    torch.save({"model": {name: torch.zeros(7, 2), "decoder.layers.0.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match="is not an XTTS model: it has a text embedding of 7 rows but no transformer layers"
    ):
        inspect_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (np.int64(17), 17),
        (np.float64(17), 17),
        (17.0, 17),
        (torch.tensor(17), 17),
        (torch.tensor([17.0]), 17),
        ("17", 17),
        ("17.0", 17),
        ([17], 17),
        (17.5, None),
        ("17.5", None),
        ("last", None),
        (float("inf"), None),
        (None, None),
    ],
    ids=[
        "numpy",
        "numpy float",
        "float",
        "tensor",
        "tensor of a float",
        "text",
        "text of a float",
        "list",
        "fraction",
        "text of a fraction",
        "word",
        "infinity",
        "None",
    ],
)
def test_counts(tmp_path, step, found):
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3, 2)}}
    content = {"model": OURS, "optimizer": {"state": moments, "param_groups": [{"params": [0]}]}, "epoch": step}
    torch.save({**content, "step": step}, tmp_path / "a.pth")
    info = inspect_checkpoint(tmp_path / "a.pth")
    assert (info.step, info.epoch, info.kind) == (found, found, "base" if found is None else "training")
    assert type(info.step) is type(found)
    assert (info.has_optimizer, info.missing_position) == (True, "step or epoch" if found is None else "")


def test_a_codec_gets_plain_names_too(tmp_path):
    torch.save(
        {"module.codebook.embed": torch.zeros(2), "module.encoder.0.weight": torch.ones(1)}, tmp_path / "dvae.pth"
    )
    assert list(load_pickled(tmp_path / "dvae.pth", map_location="cpu")) == ["codebook.embed", "encoder.0.weight"]


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "module"])
def test_weights_under_other_trainers_keys(tmp_path, name):
    torch.save({"epoch": 3, name: renamed(PUBLISHED, "", "model.")}, tmp_path / "a.ckpt")
    loaded = load_pickled(tmp_path / "a.ckpt", map_location="cpu")
    assert (set(loaded), loaded["model"].keys()) == ({"epoch", "model"}, PUBLISHED.keys())
    assert inspect_checkpoint(tmp_path / "a.ckpt").kind == "base"


OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]}


@pytest.mark.parametrize(
    ("content", "step", "epoch"),
    [
        ({"optimizer_states": [OPTIMIZER], "lr_schedulers": [{"last_epoch": 1}], "global_step": 12, "epoch": 3}, 12, 3),
        ({"optimizer": (OPTIMIZER,), "scheduler": ({"last_epoch": 1},), "step": 12, "epoch": 3}, 12, 3),
        ({"optimizer": {"gpt": OPTIMIZER}, "lr_scheduler": {"last_epoch": 1}, "iteration": "12", "epoch": 3.0}, 12, 3),
        (
            {
                "optimizer_state_dict": OPTIMIZER,
                "scheduler_state_dict": {"last_epoch": 1},
                "step": None,
                "iter": torch.tensor(12),
                "epoch": torch.tensor([3]),
            },
            12,
            3,
        ),
    ],
    ids=["Lightning", "tuples", "a dict of optimizers", "torch's tutorials"],
)
def test_runs_under_other_trainers_keys(tmp_path, content, step, epoch):
    torch.save({"state_dict": renamed(PUBLISHED, "", "model."), **content}, tmp_path / "a.ckpt")
    info = inspect_checkpoint(tmp_path / "a.ckpt")
    assert (info.kind, info.step, info.epoch, info.has_scheduler) == ("training", step, epoch, True)
    plain = load_pickled(tmp_path / "a.ckpt", map_location="cpu")
    assert {"model", "optimizer", "scheduler", "step", "epoch"} <= plain.keys()
    assert not isinstance(plain["optimizer"], tuple)


@pytest.mark.parametrize(
    ("content", "beside"),
    [
        ({"model": {"model": OURS}, "step": 1}, {"step": 1}),
        ({"state_dict": {"model": OURS, "config": {"lr": 1}}}, {"config": {"lr": 1}}),
        ({"checkpoint": {"weights": {"net": OURS}, "step": 2}, "step": 1}, {"step": 1}),
        ({"ema": OURS, "epoch": 3}, {"epoch": 3}),
        ({"generator": OURS, "discriminator": {"a": torch.zeros(1)}}, {"discriminator": {"a": torch.zeros(1)}}),
        ({"ema": {"model": PUBLISHED}, "model": {"module": OURS}}, {"ema": {"model": PUBLISHED}}),
    ],
    ids=["model in model", "state_dict with more", "three levels", "ema", "generator", "model beside its average"],
)
def test_nested_weights_are_found(tmp_path, caplog, content, beside):
    torch.save(content, tmp_path / "a.pth")
    found = load_pickled(tmp_path / "a.pth", map_location="cpu")
    weights = found.pop("model")
    assert weights.keys() == OURS.keys()
    assert found.keys() == beside.keys()
    assert found.get("step") == beside.get("step")
    assert ("XTTS models" in caplog.text) == ("ema" in beside)


@pytest.mark.parametrize(
    "content",
    [
        {"student": OURS, "ema": PUBLISHED},
        {**renamed(PUBLISHED, "", "student."), **renamed(PUBLISHED, "", "ema.")},
    ],
    ids=["by key", "by prefix"],
)
def test_two_models_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"contains 2 XTTS models \((student, ema|ema, student)\)"):
        inspect_checkpoint(tmp_path / "a.pth")
