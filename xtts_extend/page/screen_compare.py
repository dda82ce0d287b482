"""The Compare screen: the same text in the same voice from the base, checkpoints, packs and exported models."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.page import command_lines, uploads
from xtts_extend.page.browser_input import checked_text, pick
from xtts_extend.page.listings import Entry
from xtts_extend.page.project import COMPARED, Project
from xtts_extend.page.screen_data import named_upload
from xtts_extend.page.widgets import Screen, choices, job_box, paths_of, says_errors, shown_file, start_job

BASE = "base model"
_LONGEST_TEXT = 1_000
_PLAYERS = 12


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    with gr.Accordion("Add voices", open=False):
        files = named_upload("Voice recordings")
        add = gr.Button("Add voices")
    with gr.Row():
        sources = gr.Dropdown(label="Models to compare", choices=[], multiselect=True)
        languages = gr.Textbox(label="Languages", info="Comma-separated codes, including old languages, such as am, en")
        voice = gr.Dropdown(label="Voice", choices=[], multiselect=True)
    text = gr.Textbox(label="Text to speak", lines=2)
    start = gr.Button("Compare", variant="primary")
    shown_id, timer = job_box(project, ["compare"], "Comparison")
    result = gr.Dropdown(label="Comparison to listen to", choices=[])
    table = gr.Dataframe(
        headers=["Model", "Language", "Seconds", "Same as the base"],
        column_widths=["30%", "15%", "15%", "40%"],
        interactive=False,
        wrap=True,
    )
    players = [gr.Audio(visible=False, interactive=False) for _ in range(_PLAYERS)]

    def refresh() -> tuple[Any, ...]:
        names = [entry.name for entry in _sources(project)]
        language = project.settings.language
        return (
            gr.update(choices=names, value=names[:1]),
            f"{language}, en" if language else "en",
            gr.update(choices=[entry.name for entry in project.voices()]),
            choices(project.compared()),
        )

    @says_errors
    def store(given: list[tuple[Path, str]] | None) -> tuple[Any, ...]:
        stored = uploads.store_voices(project, given or [])
        names = [entry.name for entry in project.voices()]
        return gr.update(choices=names, value=[name for name in names if name in stored]), None

    @says_errors
    def compare(names: list[str], codes: str, voices: list[str], said: str) -> str:
        if not names or not voices:
            raise ConfigError("Choose at least one model and a voice.")
        if not project.settings.base_dir:
            raise ConfigError("Choose a base model on the Project screen first.")
        chosen = [pick(name, _sources(project)).path for name in names]
        arguments = command_lines.compare(
            Path(project.settings.base_dir),
            chosen,
            [code.strip() for code in codes.split(",") if code.strip()],
            paths_of(project.voices(), voices),
            checked_text(said, _LONGEST_TEXT),
            project.folder / COMPARED / time.strftime("%Y-%m-%d_%H-%M-%S"),
        )
        return start_job(project, "compare", arguments, "Comparison")

    @says_errors
    def show(name: str | None) -> tuple[Any, ...]:
        hidden = [gr.update(visible=False, value=None)] * _PLAYERS
        if not name:
            return [], *hidden
        folder = pick(name, project.compared()).path
        found = _results(folder)
        rows = [[title, one["language"], _rounded(one.get("seconds")), _equal(one)] for title, one in found]
        shown = [
            gr.update(
                visible=True, value=shown_file(project, folder / one["file"]), label=f"{title} · {one['language']}"
            )
            for title, one in found
            if one.get("file")
        ][:_PLAYERS]
        return rows, *shown, *hidden[len(shown) :]

    options: dict[str, Any] = {"api_visibility": "private"}
    add.click(store, files, [voice, files], **options)
    start.click(compare, [sources, languages, voice, text], shown_id, **options)
    timer.tick(
        lambda chosen: gr.update(choices=[entry.name for entry in project.compared()], value=_newest(project, chosen)),
        result, result, show_progress="hidden", **options,
    )  # fmt: skip
    result.change(show, result, [table, *players], **options)
    return Screen("Compare", refresh, [sources, languages, voice, result], [timer])


def _sources(project: Project) -> list[Entry]:
    """Return what can be compared: the base, models, packs, and the checkpoints of all runs."""
    base = project.settings.base_dir
    found = [Entry(BASE, Path(base))] if base else []
    found += [Entry(f"models/{entry.name}", entry.path) for entry in (*project.models(), *project.packs())]
    for run in project.runs():
        found += [
            Entry(f"{run.name}/{entry.name}", entry.path) for entry in reversed(project.checkpoints(run.path).entries)
        ]
    return found


def _newest(project: Project, chosen: str | None) -> str | None:
    """Return the newest complete comparison; the user's choice is kept until there is a newer one."""
    names = [entry.name for entry in project.compared()]
    return max([*names, chosen or ""]) or None


def _results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (model, result for one language) pairs from a comparison."""
    try:
        content = json.loads((folder / "compared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The comparison {folder.name} cannot be read: {error}. Compare again.") from error
    return [
        (Path(source["path"]).name, {"language": language, **one})
        for source in content["sources"]
        for language, one in source["languages"].items()
    ]


def _equal(result: dict[str, Any]) -> str:
    if error := result.get("error"):
        return f"❌ {error}"
    equal = result.get("equals_base")
    return "–" if equal is None else "✅ identical, sample by sample" if equal else "different"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
