"""The Resume screen: every checkpoint of a run, what the doctor says about it, and what resuming from it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.page import command_lines
from xtts_extend.page.browser_input import checked_number, pick
from xtts_extend.page.checkpoint_view import CheckpointView, verdict, view_checkpoints
from xtts_extend.page.project import Project
from xtts_extend.page.widgets import Screen, as_markdown, choices, job_box, path_of, says_errors, start_job

NEWEST = "Newest intact checkpoint of the run"


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    run = gr.Dropdown(label="Run to resume", choices=[])
    table = gr.Dataframe(
        headers=["Checkpoint", "Step", "Epoch", "State", "Written by", "Size (MB)", "Doctor"],
        column_widths=["20%", "10%", "10%", "15%", "15%", "10%", "20%"],
        interactive=False,
        wrap=True,
    )
    checkpoint = gr.Dropdown(label="Checkpoint to resume from", choices=[NEWEST], value=NEWEST)
    effect = gr.Markdown()
    with gr.Row():
        steps = gr.Number(label="Stop at step", info="0 uses the run's own limit.", value=0, precision=0)
        hours = gr.Number(label="Stop after hours", info="0 uses the run's own limit.", value=0)
        new_run = gr.Checkbox(label="Resume in a new folder")
    command = gr.Textbox(label="The exact resume command", lines=2, max_lines=8, interactive=False)
    with gr.Row():
        examine = gr.Button("Examine the checkpoint")
        preview = gr.Button("Show the resume command")
        resume = gr.Button("Resume training", variant="primary")
    examined_id, examine_timer = job_box(project, ["inspect"], "Examination")
    resumed_id, resume_timer = job_box(project, ["train"], "Resumed training")
    answers = [run, checkpoint, steps, hours, new_run]

    def refresh() -> Any:
        return choices(sorted(project.runs(), key=lambda entry: entry.path.stat().st_mtime))

    @says_errors
    def show(run_name: str | None) -> tuple[Any, ...]:
        if not run_name:
            return [], gr.update(choices=[NEWEST], value=NEWEST)
        views = view_checkpoints(path_of(project.runs(), run_name))
        rows = [_row(project, view) for view in reversed(views)]
        return rows, gr.update(choices=[NEWEST, *(view.name for view in reversed(views))])

    @says_errors
    def tell(run_name: str | None, name: str) -> str:
        if not run_name:
            return ""
        view = _view(project, run_name, name)
        return as_markdown(f"{view.name}: {view.resuming}")

    @says_errors
    def start_examination(run_name: str, name: str) -> str:
        path = _view(project, run_name, name).path
        if not project.settings.base_dir:
            raise ConfigError("Choose a base model on the Project screen first.")
        arguments = command_lines.inspect(path, Path(project.settings.base_dir))
        return start_job(project, "inspect", arguments, f"Examination of {path.name}")

    @says_errors
    def arguments_of(
        run_name: str, name: str, max_steps: float | None, max_hours: float | None, is_new: bool
    ) -> list[str]:
        return command_lines.resume(
            _chosen(project, run_name, name),
            max_steps=None if not max_steps else checked_number(max_steps, 1, 10**8),
            hours=None if not max_hours else checked_number(max_hours, 0.01, 10_000.0),
            new_run=bool(is_new),
        )

    def show_command(*given: Any) -> str:
        return command_lines.shown(arguments_of(*given))

    @says_errors
    def start(*given: Any) -> tuple[str, str]:
        arguments = arguments_of(*given)
        return start_job(project, "train", arguments, f"Resuming {given[0]}"), command_lines.shown(arguments)

    options: dict[str, Any] = {"api_visibility": "private"}
    gr.on([run.change, examine_timer.tick], show, run, [table, checkpoint], show_progress="hidden", **options)
    gr.on([run.change, checkpoint.change], tell, [run, checkpoint], effect, **options)
    examine.click(start_examination, [run, checkpoint], examined_id, **options)
    preview.click(show_command, answers, command, **options)
    resume.click(start, answers, [resumed_id, command], **options)
    return Screen("Resume", refresh, [run], [examine_timer, resume_timer])


def _chosen(project: Project, run_name: str, name: str) -> Path:
    """Return the path of a checkpoint, or the run folder if its newest one is chosen."""
    run = path_of(project.runs(), run_name)
    return run if name == NEWEST else pick(name, view_checkpoints(run)).path


def _view(project: Project, run_name: str, name: str) -> CheckpointView:
    """Return the checkpoint with a name, or the newest intact one of the run."""
    views = view_checkpoints(path_of(project.runs(), run_name))
    if name != NEWEST:
        return pick(name, views)
    intact = [view for view in views if view.is_intact]
    if not intact:
        raise ConfigError(f"{run_name} has no intact checkpoint.")
    return intact[-1]


def _row(project: Project, view: CheckpointView) -> list[Any]:
    found = verdict(view.path, project.jobs())
    state = view.kind if view.is_intact else f"damaged: {view.problem}"
    judged = f"{found['verdict']}: {found.get('reason', '')}" if found else "not examined"
    return [
        view.name,
        view.step,
        view.epoch,
        state,
        view.written_by,
        round(view.size_bytes / 1e6, 1),
        judged,
    ]
