"""The Data screen: manifests, the data check, and text corrections next to audio players."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.page import command_lines, corrections, uploads
from xtts_extend.page.browser_input import checked_number, checked_text
from xtts_extend.page.project import Project
from xtts_extend.page.widgets import Screen, choices, job_box, path_of, says_errors, shown_file, start_job

ROWS = 20
_LONGEST_TEXT = 2_000
_PROBLEMS = 200


def build(project: Project, upload_limit_mb: int) -> Screen:
    """Build the screen in the current tab."""
    limit = upload_limit_mb * 1_000_000
    with gr.Accordion("Add recordings and manifests", open=True):
        gr.Markdown(
            "Upload a manifest (`train.csv` with the columns `audio_file|text|speaker_name`, or a table from Common "
            "Voice, LJSpeech or similar) and its recordings, or a zip archive of both. "
            f"Up to {upload_limit_mb:,} MB at a time."
        )
        files = named_upload("Files to add")
        add = gr.Button("Add files", variant="primary")
    with gr.Row():
        manifest = gr.Dropdown(label="Manifest", choices=[])
        check = gr.Button("Check the data")
    shown_id, timer = job_box(project, ["check-data"], "Data check")
    problems = gr.Dataframe(
        headers=["Problem", "Recording", "Location", "Detail"], interactive=False, wrap=True, label="Problems"
    )
    show = gr.Button("Show problems from the last check", size="sm")
    gr.Markdown("### Correct the manifest")
    with gr.Row():
        first = gr.Number(label="First row", value=1, minimum=1, precision=0)
        total = gr.Markdown()
    table = gr.Dataframe(headers=["Row", "Recording", "Text", "Status"], interactive=False, wrap=True, label="Rows")
    with gr.Row():
        number = gr.Number(label="Row", value=1, minimum=1, precision=0)
        player = gr.Audio(label="Recording", interactive=False)
    text = gr.Textbox(label="Text", lines=2)
    with gr.Row():
        save = gr.Button("Save text")
        drop = gr.Button("Leave recording out")
        restore = gr.Button("Restore original")

    def refresh() -> Any:
        return choices(project.manifests())

    @says_errors
    def store(given: list[tuple[Path, str]] | None) -> tuple[Any, ...]:
        if not given:
            raise ConfigError("Choose files first.")
        stored = uploads.store_data(project, given, limit)
        gr.Info(f"Files added: {len(stored):,}.")
        manifests = project.manifests()
        names = [entry.name for entry in manifests]
        return choices(manifests, next((name for name in stored if name in names), None)), None

    @says_errors
    def start(name: str) -> str:
        settings = project.settings
        applied = corrections.apply(project, path_of(project.manifests(), name))
        arguments = command_lines.check_data(applied.manifest, settings.language, newest_vocabulary(project))
        return start_job(project, "check-data", arguments, f"Check of {name}")

    @says_errors
    def rows(name: str | None, start: float) -> tuple[Any, ...]:
        if not name:
            return [], ""
        found, count = corrections.rows(
            project, path_of(project.manifests(), name), checked_number(start, 1, 10**9) - 1, ROWS
        )
        shown = [
            [row.number + 1, row.audio_file, row.text, "left out" if row.is_dropped else "edited" * row.is_corrected]
            for row in found
        ]
        return shown, f"Rows: {count:,} ({ROWS} shown at a time)."

    @says_errors
    def choose(name: str | None, row_number: float) -> tuple[Any, ...]:
        if not name:
            return None, ""
        row = corrections.row(project, path_of(project.manifests(), name), checked_number(row_number, 1, 10**9) - 1)
        return shown_file(project, row.path), row.text

    def correct(action: str) -> Any:
        @says_errors
        def handler(name: str, row_number: float, new_text: str, start: float) -> tuple[Any, ...]:
            path = path_of(project.manifests(), name)
            row = corrections.row(project, path, checked_number(row_number, 1, 10**9) - 1)
            corrections.add_correction(
                project,
                path,
                row.audio_file,
                text=checked_text(new_text, _LONGEST_TEXT) if action == "text" else None,
                drop=action == "drop",
            )
            return (*rows(name, start), corrections.row(project, path, row.number).text)

        return handler

    options: dict[str, Any] = {"api_visibility": "private"}
    add.click(store, files, [manifest, files], **options)
    check.click(start, manifest, shown_id, **options)
    show.click(says_errors(lambda: _problems(project)), None, problems, **options)
    table.select(_selected, first, number, **options)
    gr.on([manifest.change, first.change], rows, [manifest, first], [table, total], **options)
    gr.on([manifest.change, number.change], choose, [manifest, number], [player, text], **options)
    for button, action in ((save, "text"), (drop, "drop"), (restore, "restore")):
        button.click(correct(action), [manifest, number, text, first], [table, total, text], **options)
    return Screen("Data", refresh, [manifest], [timer])


def _selected(first_row: float, event: gr.SelectData) -> int:
    """Return the number of the row that was clicked."""
    return int(first_row) + event.index[0]


def named_upload(label: str) -> gr.File:
    """Return an upload field for several files, whose handlers get (path, name in the browser) for each.

    gradio drops combining marks from the names of the files that it writes, but manifests use the original names.
    """
    upload = gr.File(label=label, file_count="multiple", type="filepath")

    def named(payload: Any) -> list[tuple[Path, str]]:
        files = getattr(payload, "root", payload) or []
        return [(Path(file.path), file.orig_name or Path(file.path).name) for file in files]

    upload.preprocess = named  # type: ignore[method-assign,assignment]
    return upload


def newest_vocabulary(project: Project) -> Path:
    """Return the project's newest vocabulary that has its language, or else the base's vocabulary."""
    own = [entry.path for entry in project.vocabularies() if project.speaks(entry.path)]
    if not project.settings.base_dir:
        raise ConfigError("Choose a base model on the Project screen first.")
    return max(own, key=lambda path: path.stat().st_mtime, default=Path(project.settings.base_dir) / "vocab.json")


def _problems(project: Project) -> list[list[str]]:
    """Return the problems and warnings from the last check, problems first."""
    checks = [job for job in project.jobs() if job.kind == "check-data"]
    if not checks:
        raise ConfigError("The data has not been checked yet. Choose a manifest and check it.")
    result = checks[-1].result()
    if result is None:
        raise ConfigError("The last check has no result yet. Check its log.")
    return [
        [kind, str(entry.get("audio_file", "")), str(entry.get("location", "")), str(entry.get("detail", ""))]
        for group in ("problem_entries", "warning_entries")
        for kind, entries in result.get(group, {}).items()
        for entry in entries
    ][:_PROBLEMS]
