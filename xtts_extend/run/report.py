"""A run as one HTML page that needs no network: curves, what is kept, starts and stops, speech, vocabulary and data."""

from __future__ import annotations

import base64
import html
import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from xtts_extend.checkpoint.inspect import run_checkpoints
from xtts_extend.errors import ConfigError
from xtts_extend.files import atomic_write
from xtts_extend.run.config import OF_OLDER_RUNS, NewLanguageConfig, read_json
from xtts_extend.run.curves import read_curves
from xtts_extend.run.folder import SAMPLES
from xtts_extend.run.history import Event, read_history
from xtts_extend.run.metrics import FILE_NAME, MetricsLine, comparable, finite, read_metrics

logger = logging.getLogger("trainer")

#: Points of a curve of the training loss: each is the mean of the steps between it and the one before.
_POINTS = 400
#: Evaluations whose test sentences are on the page: the first and the last ones.
_HEARD = 4
#: What of the configuration is worth a line.
_SETTINGS = (
    *("language", "base_dir", "started_from", "lr", "lr_scheduler"),
    *("batch_size", "grad_accum_steps", "replay", "replay_share", "distill_weight", "adapter", "adapter_rank"),
    *("init", "freeze_base_rows", "voice", "min_retention", "patience", "mixed_precision", "training_seed"),
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1, h2 {{ line-height: 1.2 }} h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .25rem .8rem .25rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #eee; overflow-wrap: anywhere }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums }}
svg {{ max-width: 100%; height: auto }} audio {{ height: 2rem }} .note {{ color: #a40 }} .quiet {{ color: #666 }}
</style></head><body>
<h1>{title}</h1>
<p class="quiet">{folder}</p>
{body}
</body></html>
"""


def write_report(run: Path, output: Path | None = None) -> dict[str, object]:
    """Draw a run folder's page; the run may still be going on.

    Args:
        run: a run folder.
        output: the file; by default `report.html` in the run folder.

    Returns:
        `output`, `steps`, `evaluations` and `samples`, the recordings on the page.

    Raises:
        ConfigError: the folder is none of a run of ours.
        MachineError: the page cannot be written.
    """
    run = run.absolute()
    if not (run / "config.json").is_file() or not (run / FILE_NAME).is_file():
        raise ConfigError(f"{run} has no config.json and {FILE_NAME}: it is no run folder of ours, or trained nothing.")
    output = output or run / "report.html"
    if output.is_dir():
        raise ConfigError(f"{output} is a folder. Give a file that ends in .html.")
    config = read_json(run / "config.json")
    steps, measured = read_metrics(run)
    evaluations = comparable(measured)
    left_out = len(measured) - len(evaluations)
    history = read_history(run)
    samples = _first_and_last_samples(run)
    language = str(config.get("language") or "a fine-tuned language")
    parts = [
        _summary(run, language, steps, evaluations),
        f'<p class="note">{left_out} evaluations by an older release, whose measure was another, are left out.</p>'
        if left_out
        else "",
        ("Loss", _losses(steps, evaluations, history)),
        ("What is kept of the old languages", _retention(evaluations, history, config)),
        ("Test sentences", _sentences(samples, config)),
        ("Starts, resumes and stops", _history(history)),
        ("Vocabulary and data", _data(history)),
        ("Settings", _table(("setting", "value"), _settings(config))),
    ]
    body = "\n".join(part if isinstance(part, str) else f"<h2>{part[0]}</h2>\n{part[1]}" for part in parts)
    page = _PAGE.format(title=f"XTTS learns {html.escape(language)}", folder=html.escape(str(run)), body=body)
    with atomic_write(output) as file:
        file.write(page.encode("utf-8", errors="surrogateescape"))
    return {"output": str(output), "steps": len(steps), "evaluations": len(evaluations), "samples": len(samples)}


def _settings(config: Mapping[str, object]) -> list[tuple[str, object]]:
    """What of the configuration is worth a line; what only older runs have, where it is not the default."""
    older = [name for name in OF_OLDER_RUNS if config.get(name) != getattr(NewLanguageConfig, name)]
    return [(name, config[name]) for name in (*_SETTINGS, *older) if name in config]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Cells are escaped; numbers are set to the right."""

    def cell(tag: str, value: object) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:.4f}" if isinstance(value, float) and 1e-3 < abs(value) < 1e6 else f"{value}"
        if isinstance(value, list):
            text = ", ".join(map(str, value))
        text = "–" if value is None or text == "" else text
        return f"<{tag}{' class=number' if is_number else ''}>{html.escape(text)}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", name) for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", value) for value in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _summary(run: Path, language: str, steps: Sequence[MetricsLine], evaluations: Sequence[MetricsLine]) -> str:
    """First and last evaluation of each language, the checkpoints, and what the curves say."""
    rows = []
    for code in sorted({line["language"] for line in evaluations}):
        lines = [line for line in evaluations if line["language"] == code]
        first, last = lines[0], lines[-1]
        best = min(lines, key=lambda line: math.inf if line["loss"] is None else line["loss"])
        kept = last.get("retention", "the language to learn" if code == language else "")
        rows.append((code, first["loss_mel_ce"], last["loss_mel_ce"], best["loss_mel_ce"], best["step"], kept))
    kept_by = "retention, merged weights" if _can_export_as_pack(evaluations) else "retention"
    head = ("language", "mel loss, first", "last", "best", "at step", kept_by)
    files = [file.name for file in run_checkpoints(run)]
    text = [f"<p>{len(steps)} steps. Checkpoints: {html.escape(', '.join(files) or 'none')}.</p>"]
    text.append(_table(head, rows) if rows else "<p>Nothing was evaluated (no --val-manifest).</p>")
    curves = read_curves(run / "checkpoint.pth", None, language)
    findings = curves.findings() if curves else {}
    text += [f'<p class="note">{name}: {html.escape(reason)}</p>' for name, reason in findings.items()]
    return "\n".join(text)


def _losses(steps: Sequence[MetricsLine], evaluations: Sequence[MetricsLine], history: Sequence[Event]) -> str:
    losses = [(line["step"], finite(line["loss_mel_ce"])) for line in steps]
    known = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if not known:
        return "<p>No step has a loss.</p>"
    size = max(1, -(-len(known) // _POINTS))
    chunks = [known[start : start + size] for start in range(0, len(known), size)]
    train = [(chunk[-1][0], sum(loss for _, loss in chunk) / len(chunk)) for chunk in chunks]
    curves = {"training": train}
    for code in sorted({line["language"] for line in evaluations}):
        own = [line for line in evaluations if line["language"] == code]
        curves[f"{code}, evaluation"] = [(line["step"], finite(line["loss_mel_ce"])) for line in own]
    return _plot(curves, "mel loss", history)


def _can_export_as_pack(evaluations: Sequence[MetricsLine]) -> bool:
    """Whether what the run learned can be kept apart from the base, by its last evaluation."""
    last = max((line["step"] for line in evaluations), default=0)
    return any("retention_in_folder" in line for line in evaluations if line["step"] == last)


def _retention(evaluations: Sequence[MetricsLine], history: Sequence[Event], config: Mapping[str, object]) -> str:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in evaluations:
        if "retention" in line:
            curves.setdefault(line["language"], []).append((line["step"], finite(line["retention"])))
    if not curves:
        return "<p>No old language was evaluated: give --val-manifest PATH:LANG for the languages to keep.</p>"
    said = "<p>The base's mel loss over the model's, on the same recordings: 1 is as the base, less is forgotten.</p>"
    if _can_export_as_pack(evaluations):
        curves = {f"{language}, merged weights": points for language, points in curves.items()}
        said = (
            "<p>The base's mel loss over that of the merged weights, on the same recordings: 1 is as the base, less is "
            "forgotten. In the model folder, where what was learned is kept in a pack, the base stays exact, and "
            "retention is 1.</p>"
        )
    level = config.get("min_retention")
    return said + _plot(curves, "retention", history, level=level if isinstance(level, float) else 1.0)


def _plot(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    label: str,
    history: Sequence[Event],
    level: float | None = None,
) -> str:
    """An SVG inside of the page; dotted lines are the steps at which the run was taken up again."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        many = len(points) > 60
        axes.plot(
            [step for step, _ in points],
            [value for _, value in points],
            "" if many else ".-",
            label=name,
        )
    for number, event in enumerate(event for event in history if event["event"] == "resume"):
        axes.axvline(event["step"], color="grey", linestyle=":", label="resumed" if number == 0 else None)
    if level is not None:
        axes.axhline(level, color="grey", linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(target, format="svg")
    text = target.getvalue()
    return text[text.index("<svg") :]


def _first_and_last_samples(run: Path) -> list[Path]:
    """The recordings of the first evaluation and of the last ones."""
    files = sorted((run / SAMPLES).glob("*-*-*.wav"))
    steps = sorted({file.name.split("-")[0] for file in files})
    chosen = steps if len(steps) <= _HEARD else [steps[0], *steps[-_HEARD + 1 :]]
    return [file for file in files if file.name.split("-")[0] in chosen]


def _sentences(samples: Sequence[Path], config: Mapping[str, object]) -> str:
    if not samples:
        return "<p>None were spoken: give the recipe --test-sentence LANG:VOICE.wav:TEXT.</p>"
    sentences = cast("list[dict[str, str]]", config.get("test_sentences") or [])
    lines = []
    for file in samples:
        step, number, language = file.stem.split("-", 2)
        text = sentences[int(number)]["text"] if int(number) < len(sentences) else ""
        audio = base64.b64encode(file.read_bytes()).decode()
        lines.append(
            f"<tr><td class=number>{int(step)}</td><td>{html.escape(language)}</td><td>{html.escape(text)}</td>"
            f'<td><audio controls preload="none" src="data:audio/wav;base64,{audio}"></audio></td></tr>'
        )
    head = "<tr><th>step</th><th>language</th><th>text</th><th>heard</th></tr>"
    return f"<table>\n{head}\n" + "\n".join(lines) + "\n</table>"


def _history(history: Sequence[Event]) -> str:
    if not history:
        return "<p>This run was begun by a release that kept no history.</p>"
    rows = []
    for event in history:
        details = [f"from {event['from']}"] if event.get("from") else []
        details += [f"restored: {', '.join(event['restored'])}"] if event.get("restored") else []
        details += [f"changed: {', '.join(event['changed'])}"] if event.get("changed") else []
        details += [f"{event['processes']} processes"] if event.get("processes", 1) > 1 else []
        rows.append((event.get("time", ""), event["event"], event.get("step", ""), "; ".join(details)))
    return _table(("time", "event", "step", "what"), rows)


def _data(history: Sequence[Event]) -> str:
    started = next((event for event in reversed(history) if "hours" in event), None)
    if started is None:
        return "<p>Nothing is known.</p>"
    tokens = started["tokens"]
    rows: list[tuple[str, float]] = [("tokens of the base", tokens["base"]), ("new tokens", tokens["new"])]
    rows += [(f"hours of {name}", value) for name, value in started["hours"].items()]
    return _table(("what", "how much"), rows)
