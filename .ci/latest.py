"""The canary: the newest releases of everything but torch, without the lock and without the bounds of setup.cfg.

    python .ci/latest.py path/to/uv

Makes `.venv-latest`, runs `check-env` and the tests in it, and says what is newer than the lock and what broke. Exits
with 0 if nothing did. docs/contributing.md says how to answer it.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-latest"
PYTHON = VENV / "bin" / "python"
#: They have to match each other, and newer ones are known not to.
BOUNDED = ("torch", "torchaudio", "torchcodec")


def requirements() -> list[str]:
    """What setup.cfg asks for, its extras included; without versions except for torch."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = {re.split(r"[<>=!~\[; ]", line)[0]: line for line in lines if line and not line.startswith("#")}
    return [line if name in BOUNDED else name for name, line in found.items()]


def locked_versions() -> dict[str, set[str]]:
    """The versions of constraints.txt, which may have several of a package for several Pythons."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def main(uv: str) -> int:
    """Install, try, test, and report; returns the exit code."""
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", PYTHON]
    subprocess.run([*install, *requirements()], check=True)
    subprocess.run([*install, "--no-deps", "--editable", ROOT], check=True)
    listed = subprocess.run(
        [uv, "pip", "list", "--format", "json", "--python", PYTHON], check=True, capture_output=True, text=True
    )
    locked = locked_versions()
    newer = [
        f"{package['name']} {package['version']} (locked: {', '.join(sorted(locked[package['name']]))})"
        for package in json.loads(listed.stdout)
        if package["version"].split("+")[0] not in locked.get(package["name"], {package["version"].split("+")[0]})
    ]

    tried = subprocess.run([PYTHON, "-m", "xtts_extend.cli", "check-env"], cwd=ROOT)
    # what is known to break is a warning here: what else does?
    environment = {**os.environ, "XTTS_EXTEND_IGNORE_CONFLICTS": "1"}
    tested = subprocess.run(
        [PYTHON, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(tested.stdout)
    print("Other versions than the lock's:", *newer or ["none"], sep="\n  ")
    print("check-env:", "passed" if tried.returncode == 0 else "FAILED, see above")
    broken = re.findall(r"^(?:FAILED|ERROR) tests.*", tested.stdout, re.MULTILINE)
    print(f"Tests: {len(broken)} broke" if broken else f"Tests: exit code {tested.returncode}", *broken, sep="\n  ")
    return int(bool(tried.returncode or tested.returncode))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
