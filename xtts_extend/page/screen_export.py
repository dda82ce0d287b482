"""The Export screen: a run becomes a language pack, a model folder, or one set of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.page import command_lines
from xtts_extend.page.browser_input import checked_name, checked_text, pick
from xtts_extend.page.checkpoint_view import view_checkpoints
from xtts_extend.page.project import MODELS, Project
from xtts_extend.page.screen_resume import NEWEST
from xtts_extend.page.widgets import Screen, as_markdown, choices, job_box, path_of, says_errors, shown_file, start_job

PACK, FOLDER, MERGED = "Language pack (a file to share)", "Model folder (base and pack)", "Merged weights"


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    with gr.Row():
        run = gr.Dropdown(label="Run to export", choices=[])
        checkpoint = gr.Dropdown(label="Checkpoint to export", choices=[NEWEST], value=NEWEST)
    kind = gr.Radio(
        [FOLDER, PACK, MERGED],
        value=FOLDER,
        label="What to write",
        info="With a pack, the old languages stay exactly as they are in the base. Merged weights partly forget them.",
    )
    with gr.Row():
        name = gr.Textbox(label="Name of the export")
        licence = gr.Textbox(label="License of the recordings", info="Optional, for example CC BY 4.0.")
    export = gr.Button("Export", variant="primary")
    shown_id, timer = job_box(project, ["export"], "Export job")
    gr.Markdown("### Exports")
    exports = gr.Markdown()
    with gr.Row():
        pack = gr.Dropdown(label="Pack to download", choices=[])
        download = gr.DownloadButton("Download the pack", value=None, interactive=False)

    def refresh() -> tuple[Any, ...]:
        return (
            choices(sorted(project.runs(), key=lambda entry: entry.path.stat().st_mtime)),
            project.settings.language,
            _exports(project),
            choices(project.packs()),
        )

    @says_errors
    def show(run_name: str | None) -> Any:
        views = view_checkpoints(path_of(project.runs(), run_name)) if run_name else []
        return gr.update(choices=[NEWEST, *(view.name for view in reversed(views))], value=NEWEST)

    @says_errors
    def start(run_name: str, checkpoint_name: str, what: str, export_name: str, terms: str) -> str:
        folder = path_of(project.runs(), run_name)
        source = folder if checkpoint_name == NEWEST else pick(checkpoint_name, view_checkpoints(folder)).path
        output = project.folder / MODELS / checked_name(export_name.removesuffix(".safetensors"))
        if pick(what, [FOLDER, PACK, MERGED]) == PACK:
            output = output.with_name(f"{output.name}.safetensors")
        if output.exists():
            raise ConfigError(f"{output.name} already exists and will not be overwritten. Choose a different name.")
        arguments = command_lines.export(
            source,
            output,
            base_dir=Path(project.settings.base_dir) if project.settings.base_dir else None,
            merged=what == MERGED,
            licence=checked_text(terms, 200) if terms.strip() else "",
        )
        return start_job(project, "export", arguments, f"Export {output.name}")

    @says_errors
    def offer(pack_name: str | None) -> Any:
        if not pack_name:
            return gr.update(value=None, interactive=False)
        return gr.update(value=shown_file(project, path_of(project.packs(), pack_name)), interactive=True)

    options: dict[str, Any] = {"api_visibility": "private"}
    run.change(show, run, checkpoint, **options)
    export.click(start, [run, checkpoint, kind, name, licence], shown_id, **options)
    timer.tick(
        lambda: (_exports(project), gr.update(choices=[entry.name for entry in project.packs()])),
        None, [exports, pack], show_progress="hidden", **options,
    )  # fmt: skip
    pack.change(offer, pack, download, **options)
    return Screen("Export", refresh, [run, name, exports, pack], [timer])


def _exports(project: Project) -> str:
    found = [*project.models(), *project.packs()]
    lines = [f"- {as_markdown(entry.path)}" for entry in found]
    return "\n".join(lines) or "Nothing has been exported yet."
