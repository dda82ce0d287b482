"""Log lines of a run, and the points of its dashboard."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
from runs import only_run
from samples import make_sample
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from xtts_extend.data.check import DataReport
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.run.metrics import make_dashboard, read_metrics
from xtts_extend.run.position import Position
from xtts_extend.run.summary import describe_processes, describe_run
from xtts_extend.training import pace
from xtts_extend.training.pace import Progress
from xtts_extend.training.trainer import ResumableTrainer


def points(folder, tag="TrainIterStats/loss"):
    """Return the steps of a TensorBoard curve in file order."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    return [point.step for point in events.Scalars(tag)] if tag in events.Tags()[SCALARS] else []


def test_a_start_and_its_resume(corpus, recipe, tmp_path, caplog, monkeypatch):
    """With learning rate 0, no evaluation is better than the previous one, so `patience` ends the run."""
    on_disk = {}
    train_step = ResumableTrainer.train_step

    def step_and_read_points(trainer, *args):
        result = train_step(trainer, *args)
        on_disk[trainer.position.step] = points(trainer.output_path)
        return result

    monkeypatch.setattr(ResumableTrainer, "train_step", step_and_read_points)
    caplog.set_level(logging.INFO)
    flags = {"learning_rate": 0, "eval_step": 4, "patience": 2, "epochs": 10}
    recipe([*corpus.flags(output_dir=tmp_path, **flags), "--coqpit.print_step=2"])
    run = only_run(tmp_path)
    started = caplog.text
    caplog.clear()
    recipe(["--checkpoint", str(run), "--patience", "4"])
    resumed = caplog.text

    for text, rows in ((started, "init: romanized"), (resumed, "as in the checkpoint")):
        assert text.count("Tokens 0–399 come from the base (pretrained, frozen).") == 1
        assert text.count(f"Tokens 400–549 are new (150, {rows}).") == 1
        assert text.count("487,736 of the GPT's 804,432 parameters are frozen.") == 1
        assert text.count("12 training samples, 4 validation samples.") == 1
        batches = "batches of 2, with 1 batch per optimizer step and a learning rate of 0, for at most 10 epochs"
        assert text.count(batches) == 1
        assert text.count("recent evaluations found no better model (") == 1
        assert text.count(" in a row). Raise --patience to continue.") == 1
        # the whole model and the GPT are told apart, in one place
        assert text.count("The model has ") == 1
        assert "Model has" not in text
    caplog.clear()
    recipe(["--checkpoint", str(run)])
    assert "The run is finished" in caplog.text
    assert "Stopping early" not in caplog.text

    # Each progress line has one point, which is on disk when the line is logged.
    last = read_metrics(run)[0][-1]["step"]
    assert points(run) == list(range(2, last + 1, 2))
    assert on_disk[3] == [2]
    assert on_disk[6] == [2, 4, 6]


def test_a_restarted_run_has_no_duplicate_points(tmp_path):
    """The run was killed before its first checkpoint."""
    config = NewLanguageConfig()
    for last in (5, 3):
        dashboard = make_dashboard(config, tmp_path, 0)
        for step in range(last + 1):
            dashboard.add_scalar("loss", 1.0, step)
        dashboard.finish()
    assert points(tmp_path, "loss") == [0, 1, 2, 3]
    make_dashboard(config, tmp_path, 2).finish()
    assert points(tmp_path, "loss") == [0, 1, 2]


def test_seconds_per_step_are_averaged_over_recent_steps(monkeypatch, caplog):
    """The average drops slow steps at the beginning, and excludes evaluations."""
    clock = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    caplog.set_level(logging.INFO)
    progress = Progress(SimpleNamespace(print_step=25, epochs=1, max_steps=None), 0)
    losses = {"loss": 1.0, "loss_text_ce": 0.0, "loss_mel_ce": 1.0}
    for step in range(1, 1001):
        clock[0] += 4.0 if step <= 500 else 0.5
        if step == 950:
            clock[0] += 1000
            progress.exclude_time(1000)
        if progress.is_due(step):
            progress.step(Position(step=step, batch=step), 2000, losses, 1e-5)
    lines = [record.getMessage() for record in caplog.records]
    assert "s/step" not in lines[0]
    assert "· 4.00 s/step · 2.2 h left" in lines[1]
    # The last slow step was 50 steps ago.
    assert "step 550/2000" in lines[22]
    assert "· 3.12 s/step" in lines[22]
    assert lines[-1].endswith("· 0.50 s/step · 8 min left")


def entries(count):
    keys = {"manifest": "list.csv", "line": 1, "language": "am", "detail": "so"}
    return [{"manifest_audio_file": f"{number}.wav", **keys} for number in range(count)]


def test_warnings_have_one_line_per_kind_and_unusable_samples_are_listed():
    problems = {"missing": entries(30)}
    warnings = {"channels": entries(40), "clipped": entries(1), "digits": entries(40), "sample_rate": entries(2)}
    report = DataReport(100, [make_sample()] * 70, problems, warnings, {"am": 1.0})
    lines = report.summary(20, name_warnings=False).splitlines()
    assert lines[0] == "70 of 100 samples are usable (am 1.00 h)."
    assert lines[1] == "Unusable: missing: 30 (no such file)"
    assert lines[21] == "    19.wav (line 1 of list.csv): so"
    assert lines[22:] == [
        "    and 10 more (check-data lists all of them)",
        "Warning: clipped: 1 sample (recorded at too high a level, so the peaks are clipped). "
        "Run check-data for details.",
        "Warning: digits: 40 samples (numbers left as digits, because no number words are available for the "
        "language). Run check-data for details.",
        "Converted when read: channels: 40 (more than one channel, so the channels are averaged to mono), "
        "sample_rate: 2 (a sample rate other than the model's, so the audio is resampled).",
    ]
    full = report.summary(names=None)
    assert "    29.wav (line 1 of list.csv): so" in full
    assert "    and 30 more (check-data --json lists all of them)" in full


def test_a_warning_about_the_data_is_one_line(corpus, recipe, tmp_path, caplog):
    manifest = tmp_path / "twice.csv"
    header, first, *rest = corpus.train.read_text(encoding="utf-8").splitlines(keepends=True)
    folder = corpus.train.parent
    lines = [line.replace(line.split("|")[0], str(folder / line.split("|")[0]), 1) for line in (first, first, *rest)]
    manifest.write_text(header + "".join(lines), encoding="utf-8")
    caplog.set_level(logging.INFO)
    recipe(corpus.flags(output_dir=tmp_path / "runs", train_manifest=manifest, val_manifest=None, max_steps=1))
    assert (
        "Warning: duplicate_audio: 1 sample (the same recording as an earlier sample). Run check-data for details."
        in caplog.text
    )
    assert "the same as " not in caplog.text


REST = "with 64 batches per optimizer step and a learning rate of 5e-06, for at most 1000 epochs"


@pytest.mark.parametrize(
    ("config", "processes", "line"),
    [
        ({}, 1, f"batches of 4, {REST}"),
        ({"max_steps": 9}, 2, f"batches of 8 across 2 processes, {REST} or 9 steps"),
        ({"batch_frames": 500}, 1, f"batches of up to 500 frames, {REST}"),
        ({"batch_frames": 0}, 1, f"batches as large as memory allows, {REST}"),
    ],
    ids=["samples", "processes and steps", "frames", "memory"],
)
def test_the_batch_size_is_described(config, processes, line):
    samples = [make_sample(replay=True), make_sample()]
    lines = describe_run(NewLanguageConfig(**config), samples, [], processes).splitlines()
    place = lines.index(" > 2 training samples (1 of them replayed), 0 validation samples.")
    assert lines[place + 1] == f" > Training in {line}."


def test_a_changed_number_of_processes_is_described():
    config = NewLanguageConfig(batch_size=4)
    assert describe_processes(2, config, 2) == ""
    text = describe_processes(2, config, 1)
    assert "The number of processes has changed from 2 to 1; each now has batches of 4." in text


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "xtts_extend"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert helped.stdout.startswith("usage: xtts-extend [-h]")
    # A missing argument is refused before torch is imported, which would take seconds.
    refused = subprocess.run([*command, "inspect"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "the following arguments are required: PATH" in refused.stderr
