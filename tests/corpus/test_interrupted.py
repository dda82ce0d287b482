"""make-dataset in processes of its own: killed with SIGKILL, and started by torchrun."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tones import make_sentences, write_recording

_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tones import ToneAligner, find_tones
from xtts_extend.corpus import recording_clips
from xtts_extend.corpus.pipeline import make_dataset
from xtts_extend.corpus.recording_clips import Settings
from xtts_extend.corpus.sources import find_sources
from xtts_extend.run.ranks import Ranks

recording_clips.find_speech = find_tones
with Ranks.join() as ranks:
    make_dataset(find_sources([Path("in")], "en"), Path(sys.argv[1]), Settings("en", ToneAligner(), 0.5), ranks)
"""


def start(folder: Path, output: str, *launcher: str) -> subprocess.Popen[bytes]:
    """Start the script in a process of its own."""
    script = folder / "make.py"
    script.write_text(_SCRIPT.format(root=str(Path(__file__).parents[1])), encoding="utf-8")
    command = [sys.executable, *launcher, str(script), output]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


def content(output: Path) -> dict[str, str]:
    """Return a digest of each file of a data set, without its work folder and its report, which names the folder."""
    files = [file for file in output.rglob("*") if file.is_file() and not {".work", "report.html"} & set(file.parts)]
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_matters(tmp_path: Path) -> None:
    for number in range(2):
        write_recording(tmp_path / "in" / f"{number}.flac", make_sentences(60, seed=number))
    assert start(tmp_path, "whole").wait() == 0
    kills = 0
    for attempt in range(40):
        process = start(tmp_path, "killed")
        time.sleep(2.0 + 0.4 * attempt)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 2
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_make_the_same_data_set(tmp_path: Path) -> None:
    for number in range(3):
        write_recording(tmp_path / "in" / f"{number}.flac", make_sentences(6, seed=number))
    assert start(tmp_path, "one").wait() == 0
    assert start(tmp_path, "two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2").wait() == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")
