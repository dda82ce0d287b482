"""GPU memory that is measured or runs out, precision, and gradient checkpointing."""

import itertools
import re
import weakref
from types import SimpleNamespace

import pytest
import torch
from runs import checkpoint, only_run, require_same_run

from xtts_extend.data.dataset import split_batch
from xtts_extend.errors import ConfigError, MachineError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.run.metrics import read_metrics
from xtts_extend.setup.base import config_for_base
from xtts_extend.training import batch_memory, evaluation
from xtts_extend.training.update import Updater


def memory(fixed: int, per_sample: int, runs_out_at: int = 10**9):
    """Return a function from a number of samples to bytes, and a list of the numbers that it was called with."""
    tried = []

    def peak_memory(samples: int) -> int:
        tried.append(samples)
        if samples >= runs_out_at:
            raise torch.OutOfMemoryError
        return fixed + per_sample * samples

    return peak_memory, tried


@pytest.mark.parametrize(
    ("fixed", "per_sample", "limit", "expected"), [(10, 10, 100, 9), (10, 10, 99, 8), (0, 1, 1, 1), (50, 50, 100, 1)]
)
def test_the_largest_count_is_found(fixed, per_sample, limit, expected):
    peak_memory, tried = memory(fixed, per_sample)
    assert batch_memory.largest_count(peak_memory, limit) == expected
    assert len(tried) <= 3


def test_smaller_counts_are_tried_when_memory_does_not_grow_linearly():
    peak_memory, tried = memory(0, 1, runs_out_at=60)
    assert batch_memory.largest_count(peak_memory, 100) == 57
    assert tried == [1, 2, 100, 90, 81, 72, 64, 57]


def test_one_sample_is_used_when_two_do_not_fit():
    peak_memory, tried = memory(0, 10, runs_out_at=2)
    assert batch_memory.largest_count(peak_memory, 100) == 1
    assert tried == [1, 2]


@pytest.mark.parametrize(
    "sample", [{"per_sample": 101}, {"per_sample": 1, "runs_out_at": 1}], ids=["measured", "out of memory"]
)
def test_one_sample_too_large(sample):
    peak_memory, _ = memory(0, **sample)
    with pytest.raises(MachineError, match="The longest sample alone does not fit"):
        batch_memory.largest_count(peak_memory, 100)


@pytest.mark.slow
def test_the_trial_step_leaves_no_gradient(corpus, monkeypatch):
    model = ExtendedGPTTrainer(config_for_base(corpus.base))
    state = SimpleNamespace(
        model=model,
        config=model.config,
        optimizer=torch.optim.AdamW(model.parameters()),
        autocast=lambda: torch.autocast("cpu", enabled=False),
    )
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1000)
    used = {name: parameter.nbytes for name, parameter in model.xtts.gpt.named_parameters() if "prompt" not in name}
    peak = batch_memory._peak_memory(state, 2, 60)
    assert 1000 < peak <= 1000 + 2 * sum(used.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        batch_memory._peak_memory(state, 2, 60)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_auto_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("only without a GPU")
    with pytest.raises(ConfigError, match="auto needs a GPU to measure its memory, but no GPU is visible"):
        batch_memory.find_batch_frames(None, 100)


@pytest.mark.slow
def test_batches_by_length_resume(corpus, recipe, tmp_path, caplog):
    flags = {"batch_size": None, "batch_frames": 400, "val_manifest": None}
    with caplog.at_level("INFO", "trainer"):
        recipe(corpus.flags(output_dir=tmp_path / "uninterrupted", **flags))
    uninterrupted = only_run(tmp_path / "uninterrupted")
    logged = re.search(r"Batches per epoch: (\d+), with \d+ samples and ([\d.]+)% padding on average\.\n", caplog.text)
    assert 0 < float(logged[2]) < 10
    steps = len(read_metrics(uninterrupted)[0])
    assert steps >= 2 * int(logged[1]) - 1
    recipe(corpus.flags(output_dir=tmp_path / "resumed", max_steps=steps // 2 - 1, **flags))
    run = only_run(tmp_path / "resumed")
    recipe(["--checkpoint", str(run), "--coqpit.max_steps", "null"])
    require_same_run(run, uninterrupted, steps)


@pytest.mark.slow
def test_a_run_by_frames_resumes_by_samples(corpus, recipe, fails, tmp_path):
    recipe(corpus.flags(output_dir=tmp_path, batch_size=None, batch_frames=400, val_manifest=None, max_steps=2))
    run = only_run(tmp_path)
    flags = ["--checkpoint", str(run), "--batch-size", "3", "--max-steps", "4"]
    code, error = fails(flags)
    assert code == 2
    assert "batch_frames" in error
    recipe([*flags, "--allow-changes"])
    assert [len(line["samples"]) for line in read_metrics(run)[0]][2:] == [3, 3]
    assert checkpoint(run, 4)["config"]["batch_frames"] is None


def test_batch_frames_and_batch_size_exclude_each_other(corpus, fails):
    code, error = fails(corpus.flags(batch_frames=400))
    assert code == 2
    assert "--batch-frames and --batch-size are mutually exclusive" in error


@pytest.fixture
def short_memory(monkeypatch):
    """A function that lets batches of more than `samples` samples, from the `first` on, run out of memory."""

    def start(samples, first, message="CUDA out of memory. Tried to allocate 2.00 GiB"):
        clean, calls = ExtendedGPTTrainer.train_step, itertools.count(1)
        failed = []

        def train_step(self, batch, criterion):
            # Tensors of the failed attempt would leave too little memory for the next one.
            assert not any(loss() is not None for loss in failed), "tensors of a failed batch are still in memory"
            outputs, losses = clean(self, batch, criterion)
            if self.xtts.gpt.training and next(calls) >= first and len(batch["samples"]) > samples:
                # A failed backward pass leaves partial gradients.
                (0.5 * losses["loss"]).backward()
                failed.append(weakref.ref(losses["loss"]))
                raise torch.OutOfMemoryError(message)
            return outputs, losses

        monkeypatch.setattr(ExtendedGPTTrainer, "train_step", train_step)

    return start


@pytest.fixture
def no_dropout(monkeypatch):
    """Disables dropout, because micro-batches draw other random numbers than the full batch."""
    training_mode = ExtendedGPTTrainer.on_train_epoch_start

    def on_train_epoch_start(self, trainer):
        training_mode(self, trainer)
        for module in self.xtts.gpt.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    monkeypatch.setattr(ExtendedGPTTrainer, "on_train_epoch_start", on_train_epoch_start)


@pytest.fixture
def gradients(monkeypatch):
    """The concatenated gradients of each optimizer step of all runs in the test."""
    recorded, optimizer_step = [], Updater._optimizer_step

    def record_gradients(self):
        recorded.append(torch.cat([p.grad.flatten() for p in self.state.model.parameters() if p.grad is not None]))
        optimizer_step(self)

    monkeypatch.setattr(Updater, "_optimizer_step", record_gradients)
    return recorded


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "steps"), [(4, 6), (2, 12)])
def test_out_of_memory_splits_batches_and_training_continues(
    corpus, recipe, short_memory, no_dropout, gradients, tmp_path, caplog, batch_size, steps
):
    flags = {"batch_size": batch_size, "grad_accum_steps": 2, "val_manifest": None, "epochs": 2}
    recipe(corpus.flags(output_dir=tmp_path / "enough", **flags))
    # Fails in the second batch of the first accumulation, with an exception without a message.
    short_memory(batch_size // 2, first=2, message="")
    recipe(corpus.flags(output_dir=tmp_path / "short", **flags))
    assert "The batch for step 2 does not fit in GPU memory, so this and all later batches are split" in caplog.text
    first = gradients[len(gradients) // 2]
    # Weights and batches are the same; only the order of summation differs.
    assert (first - gradients[0]).norm() <= 1e-5 * gradients[0].norm()
    enough, short = only_run(tmp_path / "enough"), only_run(tmp_path / "short")
    lines = [read_metrics(run)[0] for run in (enough, short)]
    for one, other in zip(*lines, strict=True):
        assert one["samples"] == other["samples"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    expected, found = checkpoint(enough, steps), checkpoint(short, steps)
    for name, tensor in expected["model"].items():
        # Adam may move a weight by the learning rate even if its gradient is only a rounding error.
        assert torch.allclose(found["model"][name], tensor, atol=2e-3), name
    assert found["xtts_extend"]["state"]["parts"] == 2
    # A resume splits batches from the start.
    caplog.clear()
    recipe(["--checkpoint", str(short), "--epochs", "3"])
    assert "does not fit in GPU memory" not in caplog.text


def test_out_of_memory_with_a_micro_batch(corpus, short_memory, fails, tmp_path):
    short_memory(0, first=1)
    code, error = fails(corpus.flags(output_dir=tmp_path, val_manifest=None))
    assert code == 1
    assert "The GPU is out of memory: CUDA out of memory. Tried to allocate 2.00 GiB" in error


def test_out_of_memory_in_an_evaluation(corpus, fails, monkeypatch, tmp_path):
    def run_out_of_memory(model, batches, ranks):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(evaluation, "mean_losses", run_out_of_memory)
    code, error = fails(corpus.flags(output_dir=tmp_path))
    assert code == 1
    assert "The GPU is out of memory: CUDA out of memory. Tried to allocate 3.00 GiB" in error


def test_a_split_batch_has_the_same_samples():
    batch = {
        "samples": ["a", "b", "c"],
        "text_lengths": torch.tensor([1, 2, 3]),
        "wav": torch.arange(2.0).reshape(2, 1, 1),
        "codes": torch.tensor([[7]]),
        "is_encoded": torch.tensor([False, True, False]),
        "has_distribution": torch.tensor([False, True, False]),
        "top_ids": torch.tensor([[[5]]]),
        "top_log_probs": torch.tensor([[[-0.5]]]),
        "cond_lens": None,
    }
    first, second = split_batch(batch, 2)
    assert (first["samples"], second["samples"]) == (["a"], ["b", "c"])
    assert first["codes"] is first["top_ids"] is first["cond_lens"] is None
    assert torch.equal(first["wav"], batch["wav"][:1])
    assert torch.equal(second["wav"], batch["wav"][1:])
    assert torch.equal(second["codes"], batch["codes"])
    assert torch.equal(second["top_log_probs"], batch["top_log_probs"])
    assert torch.equal(second["text_lengths"], torch.tensor([2, 3]))
    # A single sample cannot be split.
    assert [part["samples"] for part in split_batch(first, 2)] == [["a"]]


@pytest.mark.slow
@pytest.mark.parametrize("has_bf16", [True, False], ids=["bfloat16", "float32"])
def test_the_precision_depends_on_the_hardware_and_is_recorded(corpus, recipe, monkeypatch, tmp_path, has_bf16):
    flags = {"amp": None, "max_steps": 1, "val_manifest": None}
    monkeypatch.setattr("xtts_extend.setup.resolve.has_bf16", lambda: has_bf16)
    recipe(corpus.flags(output_dir=tmp_path, **flags))
    run = only_run(tmp_path)
    assert checkpoint(run, 1)["config"]["mixed_precision"] is has_bf16
    monkeypatch.setattr("xtts_extend.setup.resolve.has_bf16", lambda: not has_bf16)
    recipe(["--checkpoint", run, "--max-steps", 2])
    assert checkpoint(run, 2)["config"]["mixed_precision"] is has_bf16


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_weight(corpus, recipe, tmp_path):
    flags = {"max_steps": 3, "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path / "stored", **flags))
    recipe(corpus.flags(output_dir=tmp_path / "recomputed", gradient_checkpointing=True, **flags))
    stored, recomputed = (checkpoint(only_run(tmp_path / name), 3)["model"] for name in ("stored", "recomputed"))
    assert all(torch.equal(recomputed[name], tensor) for name, tensor in stored.items())
