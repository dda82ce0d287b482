"""Writing metrics.jsonl, reading it back, and cutting it on a resume."""

import json
import math
import os

import pytest

from xtts_extend.errors import MachineError
from xtts_extend.run.metrics import MetricsLog, read_metrics


def test_written_at_flush_and_read_back(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.add(step=1, loss=0.1 + 0.2, samples=["ድምፅ.wav"])
    assert not log.path.exists()
    log.flush()
    log.add(eval=True, step=1, language="am", loss=1.5)
    log.flush()
    assert read_metrics(tmp_path) == (
        [{"step": 1, "loss": 0.30000000000000004, "samples": ["ድምፅ.wav"]}],
        [{"eval": True, "step": 1, "language": "am", "loss": 1.5}],
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
def test_a_failed_write_leaves_whole_lines_and_is_made_up_for(tmp_path):
    """The limit is reached in the middle of the second line, as a full disk would be."""
    import resource

    log = MetricsLog(tmp_path, 0)
    log.add(step=1, loss=1.5)
    log.flush(to_disk=False)
    log.add(step=2, loss=2.5)
    before, limits = log.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 10, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"Cannot write .*metrics.jsonl: File too large"):
            log.flush(to_disk=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.path.stat().st_size == before
    log.add(step=3, loss=3.5)
    log.flush()
    assert [line["step"] for line in read_metrics(tmp_path)[0]] == [1, 2, 3]


def test_resume_removes_later_and_damaged_lines(tmp_path):
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 4)]
    lines.insert(2, json.dumps({"step": 2, "eval": True}) + "\n")
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 2, "lo', encoding="utf-8")
    MetricsLog(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == "".join(lines[:3])


def test_incomplete_line_is_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(tmp_path) == ([{"step": 1, "loss": 2.5}], [])


def test_values_that_are_not_finite_are_null(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.add(eval=True, step=4, language="en", loss=math.nan, loss_mel_ce=math.inf, retention=0.5)
    log.flush()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert text == '{"eval": true, "step": 4, "language": "en", "loss": null, "loss_mel_ce": null, "retention": 0.5}\n'
