"""What the machine can do: memory that is measured or runs out, kernels, precision."""

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


def memory(fixed: int, each: int, runs_out_at: int = 10**9):
    """Bytes by the number of samples; notes what was tried."""
    tried = []

    def peak(samples: int) -> int:
        tried.append(samples)
        if samples >= runs_out_at:
            raise torch.OutOfMemoryError
        return fixed + each * samples

    return peak, tried


@pytest.mark.parametrize(
    ("fixed", "each", "limit", "expected"), [(10, 10, 100, 9), (10, 10, 99, 8), (0, 1, 1, 1), (50, 50, 100, 1)]
)
def test_the_largest_count_is_found(fixed, each, limit, expected):
    peak, tried = memory(fixed, each)
    assert batch_memory.largest_count(peak, limit) == expected
    assert len(tried) <= 3


def test_where_memory_does_not_grow_evenly_less_is_tried():
    peak, tried = memory(0, 1, runs_out_at=60)
    assert batch_memory.largest_count(peak, 100) == 57
    assert tried == [1, 2, 100, 90, 81, 72, 64, 57]


def test_where_two_do_not_fit_one_is_taken():
    peak, tried = memory(0, 10, runs_out_at=2)
    assert batch_memory.largest_count(peak, 100) == 1
    assert tried == [1, 2]


@pytest.mark.parametrize("sample", [{"each": 101}, {"each": 1, "runs_out_at": 1}], ids=["measured", "out of memory"])
def test_one_sample_too_large(sample):
    peak, _ = memory(0, **sample)
    with pytest.raises(MachineError, match="Not one of the longest samples fits"):
        batch_memory.largest_count(peak, 100)


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


def test_auto_wants_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="--batch-frames auto measures the memory of a GPU, and none is visible"):
        batch_memory.find_batch_frames(None, 100)


@pytest.mark.slow
def test_batches_by_length_resume(corpus, recipe, tmp_path, caplog):
    flags = {"batch_size": None, "batch_frames": 400, "val_manifest": None}
    with caplog.at_level("INFO", "trainer"):
        recipe(corpus.flags(output_dir=tmp_path / "whole", **flags))
    whole = only_run(tmp_path / "whole")
    said = re.search(r"(\d+) batches of \d+ samples on average; padding ([\d.]+)%\n", caplog.text)
    assert 0 < float(said[2]) < 10
    steps = len(read_metrics(whole)[0])
    assert steps >= 2 * int(said[1]) - 1
    recipe(corpus.flags(output_dir=tmp_path / "parts", max_steps=steps // 2 - 1, **flags))
    run = only_run(tmp_path / "parts")
    recipe(["--checkpoint", str(run), "--coqpit.max_steps", "null"])
    require_same_run(run, whole, steps)


@pytest.mark.slow
def test_a_run_by_frames_goes_on_by_samples(corpus, recipe, fails, tmp_path):
    recipe(corpus.flags(output_dir=tmp_path, batch_size=None, batch_frames=400, val_manifest=None, max_steps=2))
    run = only_run(tmp_path)
    flags = ["--checkpoint", str(run), "--batch-size", "3", "--max-steps", "4"]
    code, error = fails(flags)
    assert code == 2
    assert "batch_frames" in error
    recipe([*flags, "--allow-changes"])
    assert [len(line["samples"]) for line in read_metrics(run)[0]][2:] == [3, 3]
    assert checkpoint(run, 4)["config"]["batch_frames"] is None


def test_two_ways_to_say_how_large_a_batch_is(corpus, fails):
    code, error = fails(corpus.flags(batch_frames=400))
    assert code == 2
    assert "--batch-frames and --batch-size are two ways" in error


@pytest.fixture
def short_memory(monkeypatch):
    """Training batches of more than so many samples, from a step on, run out of memory in the middle of backward."""

    def start(samples, first, said="CUDA out of memory. Tried to allocate 2.00 GiB"):
        clean, calls = ExtendedGPTTrainer.train_step, itertools.count(1)
        failed = []

        def train_step(self, batch, criterion):
            # otherwise there is no more room than before
            assert not any(loss() is not None for loss in failed), "what a failed batch computed is still there"
            outputs, losses = clean(self, batch, criterion)
            if self.xtts.gpt.training and next(calls) >= first and len(batch["samples"]) > samples:
                # what came before it in the backward pass is in the gradients already
                (0.5 * losses["loss"]).backward()
                failed.append(weakref.ref(losses["loss"]))
                raise torch.OutOfMemoryError(said)
            return outputs, losses

        monkeypatch.setattr(ExtendedGPTTrainer, "train_step", train_step)

    return start


@pytest.fixture
def no_dropout(monkeypatch):
    """Halves draw other random numbers than the whole."""
    training_mode = ExtendedGPTTrainer.on_train_epoch_start

    def on_train_epoch_start(self, trainer):
        training_mode(self, trainer)
        for module in self.xtts.gpt.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    monkeypatch.setattr(ExtendedGPTTrainer, "on_train_epoch_start", on_train_epoch_start)


@pytest.fixture
def gradients(monkeypatch):
    """The joined gradients of each accumulation of each run so far."""
    seen, optimizer_step = [], Updater._optimizer_step

    def recording_step(self):
        seen.append(torch.cat([p.grad.flatten() for p in self.state.model.parameters() if p.grad is not None]))
        optimizer_step(self)

    monkeypatch.setattr(Updater, "_optimizer_step", recording_step)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "steps"), [(4, 6), (2, 12)])
def test_memory_that_runs_out_halves_batches_and_the_run_goes_on(
    corpus, recipe, short_memory, no_dropout, gradients, tmp_path, caplog, batch_size, steps
):
    flags = {"batch_size": batch_size, "grad_accum_steps": 2, "val_manifest": None, "epochs": 2}
    recipe(corpus.flags(output_dir=tmp_path / "enough", **flags))
    # in the second batch of the first accumulation
    # an exception without a word counts as well
    short_memory(batch_size // 2, first=2, said="")
    recipe(corpus.flags(output_dir=tmp_path / "short", **flags))
    assert "does not suffice for the batch of step 2: from here on each batch is trained in two" in caplog.text
    first = gradients[len(gradients) // 2]
    # the same weights and the same batches; what differs is the order of the sums
    assert (first - gradients[0]).norm() <= 1e-5 * gradients[0].norm()
    enough, short = only_run(tmp_path / "enough"), only_run(tmp_path / "short")
    lines = [read_metrics(run)[0] for run in (enough, short)]
    for one, other in zip(*lines, strict=True):
        assert one["samples"] == other["samples"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    expected, found = checkpoint(enough, steps), checkpoint(short, steps)
    for name, tensor in expected["model"].items():
        # Adam moves a weight by up to its rate whatever the size of its gradient, rounding errors included
        assert torch.allclose(found["model"][name], tensor, atol=2e-3), name
    assert found["xtts_extend"]["state"]["parts"] == 2
    # a resume knows
    caplog.clear()
    recipe(["--checkpoint", str(short), "--epochs", "3"])
    assert "does not suffice" not in caplog.text


def test_memory_that_does_not_suffice_for_half(corpus, short_memory, fails, tmp_path):
    short_memory(0, first=1)
    code, error = fails(corpus.flags(output_dir=tmp_path, val_manifest=None))
    assert code == 1
    assert "The GPU's memory does not suffice: CUDA out of memory. Tried to allocate 2.00 GiB" in error


def test_an_evaluation_that_does_not_fit(corpus, fails, monkeypatch, tmp_path):
    def no_room(model, batches, ranks):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(evaluation, "mean_losses", no_room)
    code, error = fails(corpus.flags(output_dir=tmp_path))
    assert code == 1
    assert "The GPU's memory does not suffice: CUDA out of memory. Tried to allocate 3.00 GiB" in error


def test_a_split_batch_is_the_same_samples():
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
    # one sample is no two halves
    assert [part["samples"] for part in split_batch(first, 2)] == [["a"]]


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False], ids=["bfloat16", "float32"])
def test_the_precision_is_what_the_hardware_has_and_is_recorded(corpus, recipe, monkeypatch, tmp_path, there):
    flags = {"amp": None, "max_steps": 1, "val_manifest": None}
    monkeypatch.setattr("xtts_extend.setup.resolve.has_bf16", lambda: there)
    recipe(corpus.flags(output_dir=tmp_path, **flags))
    run = only_run(tmp_path)
    assert checkpoint(run, 1)["config"]["mixed_precision"] is there
    monkeypatch.setattr("xtts_extend.setup.resolve.has_bf16", lambda: not there)
    recipe(["--checkpoint", run, "--max-steps", 2])
    assert checkpoint(run, 2)["config"]["mixed_precision"] is there


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_weight(corpus, recipe, tmp_path):
    flags = {"max_steps": 3, "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path / "kept", **flags))
    recipe(corpus.flags(output_dir=tmp_path / "again", gradient_checkpointing=True, **flags))
    kept, again = (checkpoint(only_run(tmp_path / name), 3)["model"] for name in ("kept", "again"))
    assert all(torch.equal(again[name], tensor) for name, tensor in kept.items())
