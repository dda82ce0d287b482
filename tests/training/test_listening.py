"""Requests do what they say, once, and do not change what a run learns."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import STEPS, UNINTERRUPTED, checkpoint, only_run, require_equal

from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.metrics import read_metrics
from xtts_extend.run.position import Position
from xtts_extend.run.ranks import Ranks
from xtts_extend.run.requests import pending, request
from xtts_extend.run.status import is_live, read_status
from xtts_extend.training.best import BestModel
from xtts_extend.training.listening import Listener
from xtts_extend.training.pace import Progress
from xtts_extend.training.signals import Interrupted, StopRequested, StopSignal


@pytest.fixture
def request_at(monkeypatch):
    """A function that makes requests to the only run of a folder at steps; its list tells what was pending at each."""
    seen = []

    def start(output, requests):
        is_due = Progress.is_due

        def request_and_call(progress, step):
            run = only_run(output)
            seen.append((step, pending(run), is_live(run)))
            for name in requests.get(step, ()):
                request(run, name)
            return is_due(progress, step)

        # The trainer calls is_due after each step, before it looks for requests.
        monkeypatch.setattr(Progress, "is_due", request_and_call)
        return seen

    return start


def test_requests_are_served_and_change_no_numbers(uninterrupted, corpus, recipe, tmp_path, request_at):
    """The evaluation of step 4 is due anyway and serves a request, too."""
    seen = request_at(tmp_path, {4: ["evaluate"], 5: ["evaluate", "save"], 10: ["stop"]})
    recipe(corpus.flags(output_dir=tmp_path, **UNINTERRUPTED))
    run = only_run(tmp_path)
    assert seen == [(step, set(), True) for step in range(1, 11)]
    assert pending(run) == set()
    assert not is_live(run)
    status = read_status(run)
    assert (status.phase, status.step, status.error) == ("stopped", 10, None)
    assert status.last_checkpoint == str(run / "checkpoint_10.pth")
    steps = [int(file.stem.split("_")[1]) for file in run.glob("checkpoint_*")]
    assert sorted(steps) == [5, 8, 10]
    assert [line["step"] for line in read_metrics(run)[1]] == [0, 4, 5, 6, 8]

    request(run, "stop")
    recipe(["--checkpoint", run])
    assert pending(run) == set()
    assert read_status(run).phase == "finished"
    ours, theirs = checkpoint(run, STEPS), checkpoint(uninterrupted, STEPS)
    for key in ("model", "optimizer", "scheduler", "step", "epoch"):
        require_equal(ours[key], theirs[key], key)
    lines = [(folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for folder in (run, uninterrupted)]
    requested = [line for line in lines[0] if (values := json.loads(line)).get("eval") and values["step"] == 5]
    assert len(requested) == 1
    lines[0].remove(requested[0])
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_an_evaluation_without_a_validation_set_is_a_warning(corpus, recipe, tmp_path, request_at, caplog):
    request_at(tmp_path, {1: ["evaluate"]})
    recipe(corpus.flags(output_dir=tmp_path, val_manifest=None, max_steps=2))
    assert caplog.text.count("An evaluation was requested, but the run has no validation set.") == 1
    run = only_run(tmp_path)
    assert pending(run) == set()
    assert [file.name for file in run.glob("*.pth")] == ["checkpoint_2.pth"]
    assert checkpoint(run, 2)["xtts_extend"]["state"]["evaluations_without_best"] == 0


def test_a_requested_evaluation_finds_the_best_model_and_costs_no_patience(tmp_path):
    """With `requested`, a worse evaluation is not counted, and a better one resets the count."""
    config = NewLanguageConfig(language="am")
    state, best = SimpleNamespace(config=config, position=Position(step=3), ranks=Ranks()), BestModel()
    counts = []
    for loss, requested in ((3.0, False), (4.0, True), (4.0, False), (5.0, True), (2.0, True), (2.5, False)):
        assert best.judge(state, {"am": {"loss": loss}}, requested=requested)
        counts.append((best.is_new(state), state.position.evaluations_without_best))
    assert counts == [(True, 0), (False, 0), (False, 1), (False, 1), (True, 0), (False, 1)]
    assert state.position.best_value == 2.0


def listening(run, ranks=None):
    signal = StopSignal()
    return Listener(run, ranks or Ranks(), signal), signal


def test_requests_from_before_the_start_are_removed_when_it_has_succeeded(tmp_path):
    for name in ("stop", "save", "evaluate"):
        request(tmp_path, name)
        os.utime(tmp_path / "requests" / name, ns=(0, 0))
    listener, _ = listening(tmp_path)
    assert listener.requested() == set()
    listener.stop_if_asked()
    assert pending(tmp_path) == {"stop", "save", "evaluate"}
    request(tmp_path, "save")
    listener.discard_old()
    assert pending(tmp_path) == listener.requested() == {"save"}


def test_a_stop_is_told_from_a_signal(tmp_path):
    listener, signal = listening(tmp_path)
    request(tmp_path, "stop")
    with pytest.raises(StopRequested):
        listener.stop_if_asked()
    signal.number = 2
    with pytest.raises(Interrupted):
        listener.stop_if_asked()


def test_a_request_that_cannot_be_removed_is_served_once(tmp_path, monkeypatch, caplog):
    listener, _ = listening(tmp_path)
    request(tmp_path, "evaluate")
    assert listener.requested() == {"evaluate"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        listener.served("evaluate")
    assert "evaluate could not be removed: Permission denied" in caplog.text
    assert listener.requested() == set()
    os.utime(tmp_path / "requests" / "evaluate", ns=(0, 0))
    assert listener.requested() == {"evaluate"}


class Second(Ranks):
    """The second of two processes, in which the first one's values are added to sums."""

    def __init__(self, firsts):
        super().__init__(1, 2)
        self.firsts = firsts

    def sum(self, values):
        return [sum(both) for both in zip(values, self.firsts, strict=True)]


def test_other_processes_serve_what_rank_0_sees(tmp_path):
    request(tmp_path, "stop")
    listener, _ = listening(tmp_path, Second([0, 1, 0]))
    assert listener.requested() == {"save"}
    listener.served("save")
    assert pending(tmp_path) == {"stop"}
    with pytest.raises(StopRequested):
        listening(tmp_path, Second([0, 1]))[0].stop_if_asked()
    listening(tmp_path, Second([0, 0]))[0].stop_if_asked()
