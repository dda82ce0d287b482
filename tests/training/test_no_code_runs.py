"""No file can run code: plain unpickling of each of these files would leave a marker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xtts_extend import cli
from xtts_extend.speech.export import export

PACKAGE = Path(__file__).resolve().parents[2] / "xtts_extend"


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.fixture(scope="module")
def run(two_steps):
    return two_steps


@pytest.fixture
def bomb(tmp_path):
    """A function that adds code to a file, and returns the marker folder that the code would create."""
    marker = tmp_path / "it ran"

    def arm(path):
        content = torch.load(path, weights_only=True)
        # The file may be a hard link to a file that all tests share.
        path.unlink()
        torch.save({**content, "bomb": Bomb(marker)} if isinstance(content, dict) else [content, Bomb(marker)], path)
        with pytest.raises(Exception, match="weights_only|Weights only"):
            torch.load(path)
        torch.load(path, weights_only=False)
        assert marker.is_dir(), "The code in the file did not run."
        marker.rmdir()
        return marker

    return arm


@pytest.fixture
def base(corpus, tmp_path):
    """A base directory that the test may change."""
    return shutil.copytree(corpus.base, tmp_path / "base", copy_function=os.link)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("model.pth", "check-base --base-dir {base}"),
        ("model.pth", "inspect {base}"),
        pytest.param("dvae.pth", "check-base --base-dir {base}", marks=SLOW),
        ("mel_stats.pth", "check-base --base-dir {base}"),
    ],
)
def test_in_a_base_directory(base, bomb, capsys, name, command):
    marker = bomb(base / name)
    try:
        code = cli.main([part.format(base=base) for part in command.split()])
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.pth", pytest.param("dvae.pth", marks=SLOW), "mel_stats.pth"])
def test_in_a_base_directory_used_for_training(corpus, base, fails, bomb, tmp_path, name):
    marker = bomb(base / name)
    code, _ = fails(corpus.flags(base_dir=base, codes=None, output_dir=tmp_path / "runs", max_steps=1))
    assert code in (1, 2)
    assert not marker.exists()


def test_in_the_speakers_of_a_base(corpus, run, base, bomb, tmp_path, capsys):
    """Neither export nor speech reads this file."""
    marker = bomb(base / "speakers_xtts.pth")
    cli.main(["check-base", "--base-dir", str(base)])
    assert not marker.exists()
    export(run, tmp_path / "model", base, merged=True)
    assert not marker.exists()
    arguments = ["--language", "am", "--reference", corpus.voice, "--text", "ሰላም", "--output", tmp_path / "out.wav"]
    cli.main(["speak", "--model", str(tmp_path / "model"), *map(str, arguments)])
    assert not marker.exists()


@pytest.mark.parametrize("command", ["inspect {file}", "export --checkpoint {file} --output {output}"])
def test_as_a_checkpoint(run, bomb, tmp_path, capsys, command):
    file = shutil.copytree(run, tmp_path / "run") / "checkpoint_2.pth"
    marker = bomb(file)
    with pytest.raises(SystemExit) as caught:
        cli.main([part.format(file=file, output=tmp_path / "m") for part in command.split()])
    assert caught.value.code == 2
    assert "would run code when loaded" in capsys.readouterr().err
    assert not marker.exists()


def test_as_a_checkpoint_that_is_resumed(run, fails, bomb, tmp_path):
    file = shutil.copytree(run, tmp_path / "run") / "checkpoint_2.pth"
    marker = bomb(file)
    code, message = fails(["--checkpoint", file, "--epochs", 9])
    assert code == 2
    assert "would run code when loaded" in message
    assert not marker.exists()


@pytest.mark.slow
def test_every_torch_load_is_weights_only(corpus, tmp_path):
    """This includes coqui's calls: training, export and speech run in a process where any other call is an error."""
    script = f"""
import runpy, sys, torch
from pathlib import Path
load = torch.load
def strict(*arguments, **named):
    assert named.get("weights_only") is True, (arguments, named)
    return load(*arguments, **named)
torch.load = strict
sys.argv = {["recipe", *corpus.flags(output_dir=tmp_path / "runs", max_steps=1)]!r}
runpy.run_path({str(PACKAGE.parent / "recipes" / "new_language" / "train_gpt_xtts.py")!r}, run_name="__main__")
from xtts_extend.speech.export import export
from xtts_extend.speech.speaking import speak_to_file
(run,) = Path({str(tmp_path / "runs")!r}).glob("xtts-*")
out = Path({str(tmp_path)!r})
export(run, out / "model", Path({str(corpus.base)!r}), merged=True)
voice = Path({str(corpus.voice)!r})
speak_to_file(out / "model", "am", [voice], "ሰላም", out / "out.wav", seed=0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_one_module_calls_torch_load():
    calls = [
        (file.relative_to(PACKAGE).as_posix(), line.strip())
        for file in PACKAGE.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line
    ]
    assert all("weights_only=True" in line for _, line in calls)
    assert {name for name, _ in calls} == {"checkpoint/inspect.py"}
