"""What all screens share: errors as messages, jobs with their logs, and a project's lists as choices."""

from __future__ import annotations

import functools
import html
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from xtts_extend.errors import XttsExtendError
from xtts_extend.page.browser_input import pick
from xtts_extend.page.jobs import Job
from xtts_extend.page.listings import Entry, Listing
from xtts_extend.page.project import Project
from xtts_extend.text.vocabulary import load_vocabulary

logger = logging.getLogger("trainer")
P = ParamSpec("P")
R = TypeVar("R")
#: Seconds between checks of jobs and runs.
INTERVAL_S = 2.0
#: Characters that have a special meaning in Markdown. A backslash escapes them.
_MARKUP = re.compile(r"[!-/:-@\[-`{-~]")
_MARKS = {"waiting": "⏳", "running": "▶️", "finished": "✅", "failed": "❌", "stopped": "⏹️", "lost": "⚠️"}
#: A command that found something wrong, such as unusable recordings, prints its result and exits with this code.
_HAS_FINDINGS = 1


@dataclass
class Screen:
    """A screen of the page.

    Attributes:
        name: Title of its tab.
        refresh: Updates for `outputs` when the screen is opened.
        outputs: Components that `refresh` updates.
        timers: Timers that run while the screen is open.
    """

    name: str
    refresh: Callable[[], Any]
    outputs: Sequence[Any]
    timers: list[gr.Timer] = field(default_factory=list)


def says_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a handler so that the page shows a readable message, whatever goes wrong and whatever a browser has sent.

    Messages are escaped, because gradio renders them as HTML and they quote file names.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except XttsExtendError as error:
            raise gr.Error(as_text(error), duration=None, print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            logger.exception(" > An error occurred in the page.")
            raise gr.Error(
                "An internal error occurred. Reload the page and try again. "
                "For details, see the terminal that runs the page.",
                duration=None,
                print_exception=False,
            ) from error

    return wrapped


def as_text(value: object) -> str:
    """Return HTML that shows a value verbatim."""
    return html.escape(str(value), quote=False)


def as_markdown(value: object) -> str:
    """Return Markdown that shows a value verbatim, on one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(str(value).split()))


def choices(listing: Iterable[Entry], value: str | None = None) -> Any:
    """Return an update for a dropdown with the names in a listing; `value` is selected if it is one of them."""
    names = [entry.name for entry in listing]
    return gr.update(choices=names, value=value if value in names else names[-1] if names else None)


def path_of(listing: Listing, name: object) -> Path:
    """Return the path for the name that was chosen.

    Raises:
        ConfigError: The project has no such file.
    """
    return pick(name, listing).path


def paths_of(listing: Listing, names: object) -> list[Path]:
    """Return the paths for the names that were chosen. Raises the same errors as `path_of`."""
    return [path_of(listing, name) for name in names] if isinstance(names, (list, tuple)) else []


def is_old_language(project: Project, name: str) -> bool:
    """Return whether a manifest is named after a language of the base model, such as en.csv."""
    try:
        old = load_vocabulary(Path(project.settings.base_dir) / "vocab.json", quiet=True).languages
    except XttsExtendError:
        return False
    return os.path.splitext(os.path.basename(name))[0] in old


def shown_file(project: Project, path: Path) -> str | None:
    """Return the path of a file to play or download; None if it cannot be shown. Warn if it is outside the project.

    gradio copies every file that it shows, wherever it is, and links may lead out of the project.
    """
    try:
        is_inside = path.resolve().is_relative_to(project.folder.resolve())
    except (OSError, ValueError, RuntimeError):
        is_inside = False
    if not is_inside:
        gr.Warning(as_text(f"{path} is outside the project, so it is not shown. Copy it into the project."))
        return None
    return str(path) if path.is_file() else None


def start_job(project: Project, kind: str, arguments: Sequence[str], label: str) -> str:
    """Start a job and return its ID."""
    job = Job.start(project.folder, kind, arguments, label=label)
    gr.Info(as_text(f"{label}: started."))
    return job.name


def job_box(project: Project, kinds: Sequence[str], title: str) -> tuple[gr.State, gr.Timer]:
    """Show the newest job of the given kinds, with its command, its log and a button that stops it.

    Returns:
        The ID of the displayed job, which the handler that starts a job must set, and a timer.
    """
    shown_id = gr.State("")
    with gr.Group():
        state = gr.Markdown(f"**{title}**: not started.", elem_classes="job-state")
        command = gr.Textbox(label="Command", lines=2, max_lines=8, interactive=False, visible=False)
        log = gr.Textbox(label=f"Log of {title.lower()}", lines=8, max_lines=8, interactive=False, visible=False)
        stop = gr.Button(f"Stop {title.lower()}", size="sm", visible=False)

    def find(job_id: str) -> Job | None:
        found = [job for job in project.jobs() if job.kind in kinds]
        return next((job for job in found if job.name == job_id), found[-1] if found else None)

    def update(job_id: str) -> tuple[Any, ...]:
        job = find(job_id)
        if job is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        said = describe_job(job)
        return (
            gr.update(value=f"**{title}**: {as_markdown(said)}"),
            gr.update(value=job.command, visible=True),
            gr.update(value=job.log_tail(40), visible=True),
            gr.update(visible=job.state in ("waiting", "running")),
        )

    @says_errors
    def cancel(job_id: str) -> None:
        if job := find(job_id):
            job.cancel()

    timer = gr.Timer(INTERVAL_S, active=False)
    outputs = [state, command, log, stop]
    timer.tick(update, shown_id, outputs, show_progress="hidden", api_visibility="private")
    shown_id.change(update, shown_id, outputs, show_progress="hidden", api_visibility="private")
    stop.click(cancel, shown_id, None, api_visibility="private")
    return shown_id, timer


def describe_job(job: Job) -> str:
    """Return a line about a job: its mark, its label, its state and, if it failed, why."""
    state = job.state
    if state == "failed" and job.exit is not None and job.exit.code == _HAS_FINDINGS and job.result() is not None:
        return f"🔎 {job.label} · finished with findings · {time_of(job)}"
    reason = f". {job.error}" if state in ("failed", "lost") else ""
    return f"{_MARKS[state]} {job.label} · {state} · {time_of(job)}{reason}"


def time_of(job: Job) -> str:
    """Return when a job was created, to the second."""
    return f"{job.created[:19].replace('T', ' ')} UTC"
