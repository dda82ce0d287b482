"""Combinations of packages that do not work are named at once, and check-env tries the rest for real."""

import json
import os
import subprocess
import sys

import pytest
from runs import RECIPE

from xtts_extend import cli, environment
from xtts_extend.commands import check_env
from xtts_extend.environment import KNOWN_CONFLICTS, TESTED, Conflict, conflicts, installed_versions, newer_than_tested
from xtts_extend.errors import InstallationError

#: Installed side by side by the lock, with what coqui-tts forgets to ask for.
SOUND = TESTED | {"six": "1.17.0"}


@pytest.mark.parametrize(
    ("changed", "package"),
    [
        ({"transformers": "5.24.0"}, "transformers 5.24.0"),
        ({"transformers": "6.0.0.dev0"}, "transformers 6.0.0.dev0"),
        ({"torch": "2.15.0+cu130"}, "torch 2.15.0+cu130 with torchaudio 2.11.0"),
        ({"torchaudio": "2.11.1"}, "torch 2.11.0 with torchaudio 2.11.1"),
        ({"torchaudio": "2.8.0"}, "torch 2.11.0 with torchaudio 2.8.0"),
        ({"torchcodec": None}, "torch 2.11.0 without torchcodec does not work"),
        ({"torchaudio": None}, "torchaudio is not installed"),
        ({"coqpit": "0.0.17"}, "coqpit 0.0.17"),
        ({"TTS": "0.22.0"}, "TTS 0.22.0"),
        ({"trainer": "0.0.36"}, "trainer 0.0.36"),
        ({"coqui-tts": "0.27.5"}, "coqui-tts 0.27.5"),
        ({"coqui-tts": None}, "coqui-tts is not installed"),
        ({"coqui-tts-trainer": "0.3.3"}, "coqui-tts-trainer 0.3.3"),
        ({"six": None}, "coqui-tts 0.28.0 without six does not work"),
    ],
)
def test_each_known_conflict_is_named_with_its_fix(changed, package):
    installed = {name: version for name, version in (SOUND | changed).items() if version}
    (line,) = conflicts(installed)
    assert line.startswith(package)
    assert "Run `pip " in line
    assert conflicts(SOUND) == []


def test_local_and_unreadable_versions():
    assert conflicts(SOUND | {"torch": "2.11.0+cu130", "torchaudio": "2.11.0+cpu"}) == []
    assert newer_than_tested(SOUND | {"torch": "2.11.0+cu130"}) == []
    assert conflicts(SOUND | {"torch": "built by hand"}) == []
    assert newer_than_tested(SOUND | {"peft": "99.0"}) == [f"peft 99.0 (tested up to {TESTED['peft']})"]


def test_no_conflict_forbids_what_was_tested():
    assert not any(conflict.applies(SOUND) for conflict in KNOWN_CONFLICTS)
    assert Conflict({"torch": ">=2.12", "torchaudio": "<2.12"}, "", "").applies({"torch": "2.12", "torchaudio": "2.11"})
    assert not Conflict({"torch": ">=2.12", "torchaudio": "<2.12"}, "", "").applies({"torch": "2.12"})


@pytest.fixture
def installed(monkeypatch):
    """Lets the guard see other versions than are installed."""

    def pretend(**changed):
        versions = SOUND | changed
        monkeypatch.setattr(environment, "installed_versions", lambda: versions)

    monkeypatch.delenv(environment.IGNORE_VARIABLE, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return pretend


def test_the_guard(installed, capsys, monkeypatch):
    installed()
    environment.require_environment()
    assert capsys.readouterr().err == ""
    installed(transformers="5.24.0")
    with pytest.raises(InstallationError, match=r"transformers 5\.24\.0 .* `pip install \"transformers<5\.24\"`"):
        environment.require_environment()
    monkeypatch.setenv(environment.IGNORE_VARIABLE, "1")
    environment.require_environment()
    assert capsys.readouterr().err.startswith("warning: transformers 5.24.0 with coqui-tts 0.28.0 does not work")


def test_newer_than_tested_is_one_line_of_one_process(installed, capsys, monkeypatch):
    installed(peft="99.0", pysbd="98.0")
    environment.require_environment()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Newer than tested: peft 99.0 ")
    assert "pysbd 98.0" in line
    monkeypatch.setenv("RANK", "1")
    environment.require_environment()
    assert capsys.readouterr().err == ""


@pytest.fixture
def with_transformers_5_24(tmp_path):
    """Environment variables of a process that finds transformers 5.24.0 before the installed one."""
    found = tmp_path / "in front" / "transformers-5.24.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.24.0\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(found.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, environment.IGNORE_VARIABLE: "0"}


#: Runs a script or module and then says which of the heavy packages it imported.
_WATCHED = """
import runpy, sys
try:
    sys.argv = sys.argv[1:]
    (runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module)(sys.argv[0], run_name="__main__")
finally:
    print("imported:", [name for name in ("torch", "trainer", "TTS", "transformers") if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        [str(RECIPE), "--language", "am"],
        ["xtts_extend.cli", "speak", "--model=m", "--language=am", "--reference=r.wav", "--text=x", "--output=o.wav"],
        ["xtts_extend.cli", "inspect", "run", "--base", "base"],
    ],
    ids=["recipe", "speak", "inspect --base"],
)
def test_a_known_conflict_stops_before_anything_heavy_is_imported(arguments, with_transformers_5_24):
    command = [sys.executable, "-c", _WATCHED, *arguments]
    done = subprocess.run(command, env=with_transformers_5_24, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.strip() == "imported: []"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: transformers 5.24.0 ")
    assert 'pip install "transformers<5.24"' in line


def test_every_other_command_is_guarded():
    (commands,) = (action.choices for action in cli.make_parser()._actions if isinstance(action.choices, dict))
    unguarded = {name for name, parser in commands.items() if not parser.get_default("needs_coqui")}
    # `inspect` without a base reads a header, and check-env is what finds conflicts
    assert unguarded == {"inspect", "check-env"}


def test_installed_versions_are_what_is_installed():
    import torch

    assert installed_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "TTS" not in installed_versions()


@pytest.fixture
def quick_trial(monkeypatch):
    """check-env without its trials, which take seconds."""
    for step in ("_import", "_make_base", "_train", "_read_checkpoint", "_speak"):
        monkeypatch.setattr(check_env, step, lambda *work, step=step: f"{step} ran")


def test_check_env_says_what_fails_and_tries_nothing_after_it(quick_trial, monkeypatch, capsys):
    def broken(work):
        print("what the trainer prints")
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(check_env, "_train", broken)
    assert cli.main(["check-env", "--json"]) == 1
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values["ok"] is False
    found = {finding["assumption"]: finding for finding in values["findings"]}
    assert found["a training step is made"]["holds"] is False
    assert found["a training step is made"]["found"] == "RuntimeError: no luck"
    assert "its checkpoint is read back" not in found
    assert "what the trainer prints" in printed.err
    assert "in broken" in printed.err


def test_check_env_names_a_conflict_and_tries_all_the_same(quick_trial, monkeypatch, capsys):
    versions = SOUND | {"transformers": "5.24.0"}
    monkeypatch.setattr(check_env, "installed_versions", lambda: versions)
    assert cli.main(["check-env"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"note  transformers: 5.24.0 (tested: {TESTED['transformers']}, this is newer)" in lines
    (failed,) = (line for line in lines if line.startswith("FAIL"))
    assert "transformers 5.24.0 with coqui-tts 0.28.0 does not work" in failed
    assert 'pip install "transformers<5.24"' in failed
    assert any(line.startswith("ok    a sentence is generated and decoded: _speak ran") for line in lines)


def test_requirements_that_are_not_met(monkeypatch):
    asked = {"xtts_extend": ["peft<1", 'ruff; extra == "test"'], "peft": ["torch>=9", "nowhere"], "torch": ["peft"]}
    versions = {"xtts_extend": "0.1.0", "peft": "0.21", "torch": "2.11.0"}

    def version(name):
        if name not in versions:
            raise check_env.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(check_env.metadata, "requires", asked.get)
    monkeypatch.setattr(check_env.metadata, "version", version)
    assert sorted(check_env.unmet_requirements()) == [
        "peft asks for nowhere, which is not installed",
        "peft asks for torch >=9, 2.11.0 is installed",
    ]


@pytest.mark.slow
def test_check_env_for_real(with_transformers_5_24):
    """In this environment it finds nothing, in under a minute, and 5.24 in front of it."""
    command = [sys.executable, "-m", "xtts_extend.cli", "check-env", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    held = [finding["assumption"] for finding in json.loads(done.stdout)["findings"] if finding["holds"]]
    assert held[-4:] == [
        "a tiny base model is made",
        "a training step is made",
        "its checkpoint is read back",
        "a sentence is generated and decoded",
    ]
    done = subprocess.run(command, env=with_transformers_5_24, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "transformers<5.24" in done.stdout
