"""What a run does, from its status or what is there without one; curves and test sentences; odd folders."""

import json
from types import SimpleNamespace

import pytest
from run_folders import append_history, write_checkpoint

from xtts_extend.page.run_view import curves, describe_time, spoken_sentences, view_run


def status(**changes):
    values = {
        "phase": "training",
        "step": 1200,
        "epoch": 3,
        "error": None,
        "seconds_per_step": 0.5,
        "time_left_s": 9000,
    }
    return SimpleNamespace(**{**values, **changes})


def write_metrics(run, *lines):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_a_live_run(run, live, statuses):
    live.add(run)
    statuses[run] = status()
    view = view_run(run)
    assert (view.name, view.language, view.is_live, view.phase) == (run.name, "am", True, "training")
    assert (view.step, view.epoch, view.error, view.problem) == (1200, 3, "", "")
    assert view.describe() == "Training at step 1,200, epoch 3, 0.50 s per step, 2 h 30 min left."


@pytest.mark.parametrize(
    ("phase", "is_live", "expected"),
    [
        ("training", False, "killed"), ("evaluating", False, "killed"), ("starting", True, "starting"),
        ("saving", True, "saving"), ("stopped", False, "stopped"), ("finished", False, "finished"),
        # A resume that has not written yet.
        ("stopped", True, "starting"), ("failed", True, "starting"),
    ],
)  # fmt: skip
def test_phases_with_the_lock(run, live, statuses, phase, is_live, expected):
    live.update([run] if is_live else [])
    statuses[run] = status(phase=phase)
    assert view_run(run).phase == expected


def test_a_failed_run_says_why(run, statuses, live):
    statuses[run] = status(phase="failed", error="The disk is full.")
    assert view_run(run).describe() == "Failed at step 1,200, epoch 3. The disk is full."
    live.add(run)
    assert view_run(run).error == ""


@pytest.mark.parametrize(
    ("events", "phase"),
    [([("start", 0), ("end", 9)], "finished"), ([("stop", 9)], "stopped"), ([("start", 0), ("resume", 9)], "killed")],
)
def test_runs_of_earlier_releases_have_a_history(run, live, events, phase):
    append_history(run, *events)
    assert (view_run(run).phase, view_run(run).step, view_run(run).status) == (phase, 9, None)
    live.add(run)
    assert view_run(run).phase == "training"


def test_runs_without_a_history_have_metrics_or_checkpoints(run):
    (run / "checkpoint_40.pth").touch()
    assert (view_run(run).phase, view_run(run).step) == ("stopped", 40)
    write_metrics(run, {"step": 41, "epoch": 2, "loss_mel_ce": 3.0})
    assert (view_run(run).step, view_run(run).epoch) == (41, 2)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b'"am"', b"[" * 100_000])
def test_damaged_settings_are_said(run, content):
    (run / "config.json").write_bytes(content)
    (run / "history.jsonl").write_bytes(content)
    (run / "metrics.jsonl").write_bytes(content)
    view = view_run(run)
    assert view.language == ""
    assert "config.json" in view.problem
    assert curves(run).training == {"step": [], "loss": []}
    assert spoken_sentences(run) == []


def test_a_strange_folder(tmp_path, live, statuses):
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "history.jsonl").mkdir()
    (tmp_path / "samples").touch()
    view = view_run(tmp_path)
    assert (view.phase, view.step, view.problem) == ("stopped", 0, "")
    assert view_run(tmp_path / "gone").phase == "stopped"
    assert spoken_sentences(tmp_path) == []


def test_curves_are_columns(run):
    old = {"eval": True, "step": 0, "language": "am", "loss_mel_ce": 9.0}
    lines = [{"step": step, "epoch": 0, "loss_mel_ce": float(step)} for step in range(1, 801)]
    lines[4]["loss_mel_ce"] = None
    new = [
        {"eval": True, "measure": 2, "step": 400, "language": "am", "loss_mel_ce": 3.5},
        {"eval": True, "measure": 2, "step": 400, "language": "en", "loss_mel_ce": None, "retention": 0.98},
    ]
    write_metrics(run, old, *lines, *new)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 801, "loss_mel_ce": "x"}\n{"step": "y", "loss_mel_ce": 1}\n{"step": 3}\n{"step": 802, "lo')
    found = curves(run)
    assert found.training["step"][:3] == [2, 4, 7]
    assert found.training["loss"][:3] == [1.5, 3.5, 6.5]
    assert (len(found.training["step"]), found.training["step"][-1]) == (400, 800)
    assert found.evaluations == {
        "step": [400, 400], "language": ["am", "en"], "loss": [3.5, None], "retention": [None, 0.98],
    }  # fmt: skip


def test_no_metrics_are_empty_curves(run):
    assert curves(run).training == {"step": [], "loss": []}
    assert curves(run).evaluations == {"step": [], "language": [], "loss": [], "retention": []}


def test_test_sentences_by_step(run):
    folder = run / "samples"
    folder.mkdir()
    for name in ("00000010-1-en", "00000002-0-am", "00000010-0-am", "00000010-7-zh-cn", "x-0-am", "notes"):
        (folder / f"{name}.wav").touch()
    found = [(one.step, one.language, one.text, one.path.name) for one in spoken_sentences(run)]
    assert found == [
        (2, "am", "ሰላም", "00000002-0-am.wav"),
        (10, "am", "ሰላም", "00000010-0-am.wav"),
        (10, "en", "Hi", "00000010-1-en.wav"),
        (10, "zh-cn", "", "00000010-7-zh-cn.wav"),
    ]


def test_durations():
    assert describe_time(float("nan")) == "an unknown time"
    assert describe_time(3599) == "1 h 0 min"


def test_the_lock_and_the_status_of_run(tmp_path):
    """The real ones."""
    reported = pytest.importorskip("xtts_extend.run.status")
    from filelock import FileLock

    (tmp_path / ".lock").touch()
    reported.write_status(tmp_path, reported.Status("evaluating", step=5))
    write_checkpoint(tmp_path / "checkpoint_5.pth", 5)
    assert (view_run(tmp_path).phase, view_run(tmp_path).step) == ("killed", 5)
    with FileLock(tmp_path / ".lock"):
        assert view_run(tmp_path).phase == "evaluating"
