"""How long it takes to read a manifest, and in how much memory: the first reader of the project beside today's.

    python benchmarks/manifest.py [--rows 500000] [--before COMMIT] [--forms coqui …]

Each reading is a process of its own, which imports first and then takes the time. The first reader is that of COMMIT,
which git has to have; it knew the forms `audio_file|text|speaker_name`, LJSpeech and JSON lines alone. The recordings
exist, as empty files, unless --without-recordings says otherwise.
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

#: Before manifests were read as tables.
BEFORE = "6429994"
ROOT = Path(__file__).resolve().parent.parent
FORMS = ("coqui", "ljspeech", "jsonl", "csv", "parquet")
_WORDS = ["the", "reader", "splits", "and", "keeps", "every", "one", "of", "these", "words"]


def write(form: str, rows: int, folder: Path) -> Path:
    """A manifest of a form: five folders of recordings, 20 speakers, sentences of a few words."""
    names = [f"{place % 5}/utterance_{place:07}" for place in range(rows)]
    texts = [f"{' '.join(_WORDS[place % 7 :])}, said {place} times." for place in range(rows)]
    speakers = [f"speaker {place % 20}" for place in range(rows)]
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
    """Print the seconds and the peak memory in MiB of reading `path` with the module at `reader`."""
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
    # the first reader's samples are dictionaries
    files = [sample["audio_file"] if isinstance(sample, dict) else sample.audio_file for sample in samples[:100]]
    found = sum(map(os.path.isfile, files))
    print(json.dumps({"rows": len(samples), "seconds": seconds, "mib": memory, "found": found}))


def measure(path: Path, reader: Path) -> dict[str, float] | None:
    """What `read` prints in another process; None where the reader does not know the form."""
    command = [sys.executable, __file__, "--read", str(path), "--reader", str(reader)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--without-recordings", action="store_true")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.read, args.reader)
        return
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in range(5):
            (folder / "wavs" / str(place)).mkdir(parents=True)
        for place in range(0 if args.without_recordings else args.rows):
            (folder / "wavs" / f"{place % 5}" / f"utterance_{place:07}.wav").touch()
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
    heads = ["form", "before, s", "before, MiB", "after, s", "after, MiB", "seconds ratio", "memory ratio"]
    # it imports torch
    from mini_runs import table

    print(f"{args.rows} rows")
    print(table([heads, *lines]))


if __name__ == "__main__":
    main()
