"""Compare the time and memory that the project's first manifest reader and the current one need.

    python benchmarks/manifest.py [--rows 500000] [--before COMMIT] [--forms coqui …]

Each measurement runs in its own process and excludes imports. The first reader is the one of COMMIT, which must be in
the git history; it reads only `audio_file|text|speaker_name`, LJSpeech and JSON lines. The recordings exist as empty
files unless --without-recordings is given.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Last commit before manifests were read as tables.
BEFORE = "6429994"
ROOT = Path(__file__).resolve().parent.parent
FORMS = ("coqui", "ljspeech", "jsonl", "csv", "parquet")
_WORDS = ["the", "reader", "splits", "and", "keeps", "every", "one", "of", "these", "words"]


def write(form: str, rows: int, folder: Path) -> Path:
    """Write a manifest with five folders of recordings, 20 speakers and short sentences, and return its path."""
    names = [f"{number % 5}/utterance_{number:07}" for number in range(rows)]
    texts = [f"{' '.join(_WORDS[number % 7 :])}, said {number} times." for number in range(rows)]
    speakers = [f"speaker {number % 20}" for number in range(rows)]
    entries = list(zip(names, texts, speakers, strict=True))
    path = folder / form
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = [f"wavs/{name}.wav" for name in names]
        pq.write_table(pa.table({"audio": files, "sentence": texts, "client_id": speakers}), path)
        return path
    keys = ("audio_file", "text", "speaker_name")
    lines = {
        "coqui": lambda: ["|".join(keys)] + [f"wavs/{name}.wav|{text}|{speaker}" for name, text, speaker in entries],
        "ljspeech": lambda: [f"{name}|{text}" for name, text, _ in entries],
        "jsonl": lambda: [json.dumps(dict(zip(keys, (f"wavs/{n}.wav", *rest), strict=True))) for n, *rest in entries],
        "csv": lambda: ["path,sentence,client_id"] + [f'wavs/{n}.wav,"{text}",{who}' for n, text, who in entries],
    }[form]()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, reader: Path) -> None:
    """Read `path` with the module at `reader`, and print the time in seconds and the peak memory in MiB as JSON."""
    spec = importlib.util.spec_from_file_location("reader", reader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    samples = module.read_manifest(str(path), "am")
    seconds = time.perf_counter() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # The samples of the first reader are dictionaries.
    files = [sample["audio_file"] if isinstance(sample, dict) else sample.audio_file for sample in samples[:100]]
    found = sum(map(os.path.isfile, files))
    print(json.dumps({"rows": len(samples), "seconds": seconds, "mib": memory, "found": found}))


def measure(path: Path, reader: Path) -> dict[str, float] | None:
    """Return what `read` prints in another process, or None if the reader does not know the format."""
    command = [sys.executable, __file__, "--read", str(path), "--reader", str(reader)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="Number of rows. [500000]")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"Commit of the first reader. [{BEFORE}]")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="Formats to read. [all]")
    parser.add_argument("--without-recordings", action="store_true", help="Do not create the recordings.")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.read, args.reader)
        return
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(5):
            (folder / "wavs" / str(number)).mkdir(parents=True)
        for number in range(0 if args.without_recordings else args.rows):
            (folder / "wavs" / f"{number % 5}" / f"utterance_{number:07}.wav").touch()
        old = folder / "old_reader.py"
        shown = subprocess.run(
            ["git", "show", f"{args.before}:xtts_extend/data/manifest.py"], cwd=ROOT, capture_output=True, check=True
        )
        old.write_bytes(shown.stdout)
        for form in args.forms:
            path = write(form, args.rows, folder)
            before, after = measure(path, old), measure(path, ROOT / "xtts_extend" / "data" / "manifest.py")
            assert after is not None, form
            assert after["rows"] == args.rows
            lines.append(
                [
                    form,
                    *([f"{before['seconds']:.1f}", f"{before['mib']:.0f}"] if before else ["-", "-"]),
                    f"{after['seconds']:.1f}",
                    f"{after['mib']:.0f}",
                    f"{after['seconds'] / before['seconds']:.2f}" if before else "-",
                    f"{after['mib'] / before['mib']:.2f}" if before else "-",
                ]
            )
    head = ["format", "before, s", "before, MiB", "after, s", "after, MiB", "seconds ratio", "memory ratio"]
    # Imported late, because it imports torch.
    from mini_runs import table

    print(f"{args.rows:,} rows")
    print(table([head, *lines]))


if __name__ == "__main__":
    main()
