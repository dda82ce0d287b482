"""Known conflicts between package versions are reported before imports, and check-env tests the installation."""

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

#: Versions without conflicts, with a package that coqui-tts needs but does not require.
WORKING = TESTED | {"six": "1.17.0"}


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
    installed = {name: version for name, version in (WORKING | changed).items() if version}
    (line,) = conflicts(installed)
    assert line.startswith(package)
    assert "Run `pip " in line
    assert conflicts(WORKING) == []


def test_local_and_invalid_versions():
    assert conflicts(WORKING | {"torch": "2.11.0+cu130", "torchaudio": "2.11.0+cpu"}) == []
    assert newer_than_tested(WORKING | {"torch": "2.11.0+cu130"}) == []
    assert conflicts(WORKING | {"torch": "built by hand"}) == []
    assert newer_than_tested(WORKING | {"peft": "99.0"}) == [f"peft 99.0 (tested up to {TESTED['peft']})"]


def test_tested_versions_have_no_conflicts():
    assert not any(conflict.applies(WORKING) for conflict in KNOWN_CONFLICTS)
    assert Conflict({"torch": ">=2.12", "torchaudio": "<2.12"}, "", "").applies({"torch": "2.12", "torchaudio": "2.11"})
    assert not Conflict({"torch": ">=2.12", "torchaudio": "<2.12"}, "", "").applies({"torch": "2.12"})


@pytest.fixture
def installed(monkeypatch):
    """A function that changes the versions that the environment check sees."""

    def pretend(**changed):
        versions = WORKING | changed
        monkeypatch.setattr(environment, "installed_versions", lambda: versions)

    monkeypatch.delenv(environment.IGNORE_VARIABLE, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return pretend


def test_require_environment(installed, capsys, monkeypatch):
    installed()
    environment.require_environment()
    assert capsys.readouterr().err == ""
    installed(transformers="5.24.0")
    with pytest.raises(InstallationError, match=r"transformers 5\.24\.0 .* `pip install \"transformers<5\.24\"`"):
        environment.require_environment()
    monkeypatch.setenv(environment.IGNORE_VARIABLE, "1")
    environment.require_environment()
    assert capsys.readouterr().err.startswith("warning: transformers 5.24.0 with coqui-tts 0.28.0 does not work")


def test_newer_versions_are_one_warning_of_one_process(installed, capsys, monkeypatch):
    installed(peft="99.0", pysbd="98.0")
    environment.require_environment()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Some packages are newer than the tested versions: peft 99.0 ")
    assert "pysbd 98.0" in line
    monkeypatch.setenv("RANK", "1")
    environment.require_environment()
    assert capsys.readouterr().err == ""


@pytest.fixture
def with_transformers_5_24(tmp_path):
    """Environment variables with which a process finds transformers 5.24.0 before the installed version."""
    metadata = tmp_path / "in front" / "transformers-5.24.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.24.0\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(metadata.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, environment.IGNORE_VARIABLE: "0"}


#: Script that runs another script or module and then prints which large packages it imported.
_PRINT_IMPORTS = """
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
def test_a_known_conflict_stops_before_large_imports(arguments, with_transformers_5_24):
    command = [sys.executable, "-c", _PRINT_IMPORTS, *arguments]
    done = subprocess.run(command, env=with_transformers_5_24, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.strip() == "imported: []"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: transformers 5.24.0 ")
    assert 'pip install "transformers<5.24"' in line


def test_all_other_commands_check_the_environment():
    (commands,) = (action.choices for action in cli.make_parser()._actions if isinstance(action.choices, dict))
    unchecked = {name for name, parser in commands.items() if not parser.get_default("needs_coqui")}
    # `inspect` without a base only reads a header, and check-env reports conflicts itself.
    assert unchecked == {"inspect", "check-env"}


def test_installed_versions():
    import torch

    assert installed_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "TTS" not in installed_versions()


@pytest.fixture
def quick_trial(monkeypatch):
    """check-env without its slow steps."""
    for step in ("_import", "_make_base", "_train", "_read_checkpoint", "_speak"):
        monkeypatch.setattr(check_env, step, lambda *work, step=step: f"{step} ran")


def test_check_env_reports_the_failed_step_and_skips_the_rest(quick_trial, monkeypatch, capsys):
    def broken(work):
        print("what the trainer prints")
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(check_env, "_train", broken)
    assert cli.main(["check-env", "--json"]) == 1
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values["ok"] is False
    found = {finding["assumption"]: finding for finding in values["findings"]}
    assert found["train one step"]["holds"] is False
    assert found["train one step"]["found"] == "RuntimeError: no luck"
    assert "read the checkpoint" not in found
    assert "what the trainer prints" in printed.err
    assert "in broken" in printed.err


def test_check_env_reports_a_conflict_and_still_runs_all_steps(quick_trial, monkeypatch, capsys):
    versions = WORKING | {"transformers": "5.24.0"}
    monkeypatch.setattr(check_env, "installed_versions", lambda: versions)
    assert cli.main(["check-env"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"note  transformers: 5.24.0 (tested: {TESTED['transformers']}, this is newer)" in lines
    (failed,) = (line for line in lines if line.startswith("FAIL"))
    assert "transformers 5.24.0 with coqui-tts 0.28.0 does not work" in failed
    assert 'pip install "transformers<5.24"' in failed
    assert any(line.startswith("ok    generate and decode a sentence: _speak ran") for line in lines)


def test_unmet_requirements(monkeypatch):
    required = {"xtts_extend": ["peft<1", 'ruff; extra == "test"'], "peft": ["torch>=9", "nowhere"], "torch": ["peft"]}
    versions = {"xtts_extend": "0.1.0", "peft": "0.21", "torch": "2.11.0"}

    def version(name):
        if name not in versions:
            raise check_env.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(check_env.metadata, "requires", required.get)
    monkeypatch.setattr(check_env.metadata, "version", version)
    assert sorted(check_env.unmet_requirements()) == [
        "peft requires nowhere, which is not installed",
        "peft requires torch >=9, but 2.11.0 is installed",
    ]


@pytest.mark.slow
def test_check_env_for_real(with_transformers_5_24):
    """check-env passes in this environment in less than a minute, and reports transformers 5.24.0."""
    command = [sys.executable, "-m", "xtts_extend.cli", "check-env", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    held = [finding["assumption"] for finding in json.loads(done.stdout)["findings"] if finding["holds"]]
    assert held[-4:] == [
        "create a tiny base model",
        "train one step",
        "read the checkpoint",
        "generate and decode a sentence",
    ]
    done = subprocess.run(command, env=with_transformers_5_24, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "transformers<5.24" in done.stdout
