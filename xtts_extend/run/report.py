"""A run's report: one self-contained HTML page with curves, retention, speech, history and settings."""

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
from xtts_extend.html_page import page, table
from xtts_extend.run.config import OF_OLDER_RUNS, NewLanguageConfig, read_json
from xtts_extend.run.curves import read_curves
from xtts_extend.run.folder import SAMPLES
from xtts_extend.run.history import Event, read_history
from xtts_extend.run.metrics import FILE_NAME, MetricsLine, comparable, finite, read_metrics

logger = logging.getLogger("trainer")

#: Maximum number of points in the training curve. Each point is the mean over a chunk of steps.
_POINTS = 400
#: Number of evaluations with audio on the page: the first one and the last ones.
_AUDIO_EVALUATIONS = 4
#: Configuration keys in the table of settings.
_SETTINGS = (
    *("language", "base_dir", "started_from", "lr", "lr_scheduler"),
    *("batch_size", "grad_accum_steps", "replay", "replay_share", "distill_weight", "adapter", "adapter_rank"),
    *("init", "freeze_base_rows", "voice", "min_retention", "patience", "mixed_precision", "training_seed"),
)


def write_report(run: Path, output: Path | None = None) -> dict[str, object]:
    """Write the report of a run, which may still be training.

    Args:
        run: Run folder.
        output: File to write; `report.html` in the run folder by default.

    Returns:
        A dict with `output`, the file; `steps` and `evaluations`, the number of lines of each kind in the metrics; and
        `samples`, the number of audio samples on the page.

    Raises:
        ConfigError: The folder is not one of our run folders, or `output` is a folder.
        MachineError: The page cannot be written.
    """
    run = run.absolute()
    if not (run / "config.json").is_file() or not (run / FILE_NAME).is_file():
        raise ConfigError(
            f"{run} lacks config.json or {FILE_NAME}, so either it is not an xtts_extend run folder, or its run "
            "has not started training yet. Pass a run folder that has both."
        )
    output = output or run / "report.html"
    if output.is_dir():
        raise ConfigError(f"{output} is a folder. Pass a file name that ends in .html.")
    config = read_json(run / "config.json")
    steps, all_evaluations = read_metrics(run)
    evaluations = comparable(all_evaluations)
    omitted = len(all_evaluations) - len(evaluations)
    history = read_history(run)
    samples = _first_and_last_samples(run)
    language = str(config.get("language") or "a fine-tuned language")
    parts = [
        _summary(run, language, steps, evaluations),
        f'<p class="note">Evaluations from an older release are omitted ({omitted}), because their losses '
        "cannot be compared with newer ones.</p>"
        if omitted
        else "",
        ("Loss", _losses(steps, evaluations, history)),
        ("Retention of old languages", _retention(evaluations, history, config)),
        ("Test sentences", _sentences(samples, config)),
        ("History", _history(history)),
        ("Vocabulary and data", _data(history)),
        ("Settings", table(("setting", "value"), _settings(config))),
    ]
    body = "\n".join(part if isinstance(part, str) else f"<h2>{part[0]}</h2>\n{part[1]}" for part in parts)
    with atomic_write(output) as file:
        file.write(page(f"XTTS run: {language}", str(run), body))
    return {"output": str(output), "steps": len(steps), "evaluations": len(evaluations), "samples": len(samples)}


def _settings(config: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return the rows of the settings table. Deprecated settings are included only if they are not the default."""
    deprecated = [name for name in OF_OLDER_RUNS if config.get(name) != getattr(NewLanguageConfig, name)]
    return [(name, config[name]) for name in (*_SETTINGS, *deprecated) if name in config]


def _summary(run: Path, language: str, steps: Sequence[MetricsLine], evaluations: Sequence[MetricsLine]) -> str:
    """Return the first, last and best evaluation of each language, the checkpoints, and findings about the curves."""
    rows = []
    for code in sorted({line["language"] for line in evaluations}):
        lines = [line for line in evaluations if line["language"] == code]
        first, last = lines[0], lines[-1]
        best = min(lines, key=lambda line: math.inf if line["loss"] is None else line["loss"])
        retention = last.get("retention", "new language" if code == language else "")
        rows.append((code, first["loss_mel_ce"], last["loss_mel_ce"], best["loss_mel_ce"], best["step"], retention))
    retention_head = "retention, merged weights" if _can_export_as_pack(evaluations) else "retention"
    head = ("language", "first mel loss", "last", "best", "best step", retention_head)
    files = [file.name for file in run_checkpoints(run)]
    text = [f"<p>Steps: {len(steps):,}. Checkpoints: {html.escape(', '.join(files) or 'none')}.</p>"]
    text.append(table(head, rows) if rows else "<p>Nothing was evaluated, because no --val-manifest was passed.</p>")
    curves = read_curves(run / "checkpoint.pth", None, language)
    findings = curves.findings() if curves else {}
    text += [f'<p class="note">{name}: {html.escape(reason)}</p>' for name, reason in findings.items()]
    return "\n".join(text)


def mean_losses(steps: Sequence[MetricsLine]) -> list[tuple[int, float]]:
    """Return the training curve of the mel loss: at most `_POINTS` steps, each with the mean since the previous one."""
    losses = [(line["step"], finite(line["loss_mel_ce"])) for line in steps]
    finite_losses = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    size = max(1, -(-len(finite_losses) // _POINTS))
    chunks = [finite_losses[start : start + size] for start in range(0, len(finite_losses), size)]
    return [(chunk[-1][0], sum(loss for _, loss in chunk) / len(chunk)) for chunk in chunks]


def _losses(steps: Sequence[MetricsLine], evaluations: Sequence[MetricsLine], history: Sequence[Event]) -> str:
    train = mean_losses(steps)
    if not train:
        return "<p>No step has a finite loss.</p>"
    curves = {"training": train}
    for code in sorted({line["language"] for line in evaluations}):
        lines = [line for line in evaluations if line["language"] == code]
        curves[f"{code}, evaluation"] = [(line["step"], finite(line["loss_mel_ce"])) for line in lines]
    return _plot(curves, "mel loss", history)


def _can_export_as_pack(evaluations: Sequence[MetricsLine]) -> bool:
    """Return whether the run can be exported as a language pack, according to its last evaluation."""
    last = max((line["step"] for line in evaluations), default=0)
    return any("retention_in_folder" in line for line in evaluations if line["step"] == last)


def _retention(evaluations: Sequence[MetricsLine], history: Sequence[Event], config: Mapping[str, object]) -> str:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in evaluations:
        if "retention" in line:
            curves.setdefault(line["language"], []).append((line["step"], finite(line["retention"])))
    if not curves:
        return "<p>No old language was evaluated. Pass --val-manifest PATH:LANG for each language to keep.</p>"
    explanation = (
        "<p>Retention is the base's mel loss divided by the model's, on the same recordings. 1 means as good as the "
        "base; below 1, the model has forgotten something.</p>"
    )
    if _can_export_as_pack(evaluations):
        curves = {f"{language}, merged weights": points for language, points in curves.items()}
        explanation = (
            "<p>Retention is the base's mel loss divided by that of the merged weights, on the same recordings. 1 "
            "means as good as the base; below 1, the model has forgotten something. In the model folder, the new "
            "language is in a pack and the base is unchanged, so retention is 1.</p>"
        )
    level = config.get("min_retention")
    return explanation + _plot(curves, "retention", history, level=level if isinstance(level, float) else 1.0)


def _plot(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    label: str,
    history: Sequence[Event],
    level: float | None = None,
) -> str:
    """Return an inline SVG. Dotted lines mark the steps at which the run resumed."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        is_dense = len(points) > 60
        axes.plot(
            [step for step, _ in points],
            [value for _, value in points],
            "" if is_dense else ".-",
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
    """Return the recordings of the first evaluation and of the last ones."""
    files = sorted((run / SAMPLES).glob("*-*-*.wav"))
    steps = sorted({file.name.split("-")[0] for file in files})
    chosen = steps if len(steps) <= _AUDIO_EVALUATIONS else [steps[0], *steps[-_AUDIO_EVALUATIONS + 1 :]]
    return [file for file in files if file.name.split("-")[0] in chosen]


def _sentences(samples: Sequence[Path], config: Mapping[str, object]) -> str:
    if not samples:
        return "<p>The run has no test sentences. Pass --test-sentence LANG:VOICE.wav:TEXT to the recipe.</p>"
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
    head = "<tr><th>step</th><th>language</th><th>text</th><th>audio</th></tr>"
    return f"<table>\n{head}\n" + "\n".join(lines) + "\n</table>"


def _history(history: Sequence[Event]) -> str:
    if not history:
        return "<p>This run was started by a release that did not record a history.</p>"
    rows = []
    for event in history:
        details = [f"from {event['from']}"] if event.get("from") else []
        details += [f"restored: {', '.join(event['restored'])}"] if event.get("restored") else []
        details += [f"changed: {', '.join(event['changed'])}"] if event.get("changed") else []
        details += [f"{event['processes']} processes"] if event.get("processes", 1) > 1 else []
        rows.append((event.get("time", ""), event["event"], event.get("step", ""), "; ".join(details)))
    return table(("time", "event", "step", "details"), rows)


def _data(history: Sequence[Event]) -> str:
    event = next((event for event in reversed(history) if "hours" in event), None)
    if event is None:
        return "<p>The run's history does not record its vocabulary or data.</p>"
    tokens = event["tokens"]
    rows: list[tuple[str, float]] = [("base tokens", tokens["base"]), ("new tokens", tokens["new"])]
    rows += [(f"hours of audio: {name}", value) for name, value in event["hours"].items()]
    return table(("quantity", "value"), rows)
