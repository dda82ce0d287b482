"""The page: one tab per screen, all showing the files of a project."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from xtts_extend.page import (
    screen_clips,
    screen_compare,
    screen_data,
    screen_export,
    screen_project,
    screen_recordings,
    screen_resume,
    screen_train,
    screen_vocabulary,
)
from xtts_extend.page.project import Project
from xtts_extend.page.server import CACHE_S, set_environment
from xtts_extend.page.widgets import Screen, as_markdown, as_text, says_errors

#: Every hour, gradio looks for old copies of the files that it shows.
_DELETE_CACHE = (3600, CACHE_S)


class _Page(gr.Blocks):
    """gradio's page, but with readable messages for values that a component does not accept."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Return a handler's arguments, built from what the browser sent. Text values are never None."""
        try:
            values = await super().preprocess_data(block_fn, *args, **kwargs)
            fields = zip(block_fn.inputs, values, strict=True)
            return ["" if value is None and isinstance(field, gr.Textbox) else value for field, value in fields]
        except gr.Error as error:
            raise gr.Error(as_text(error.message), print_exception=False) from error
        except Exception as error:
            raise gr.Error(
                "This value cannot be used here. Reload the page, then enter it again.", print_exception=False
            ) from error


def build(project: Project, *, upload_limit_mb: int) -> gr.Blocks:
    """Return the page of a project."""
    set_environment(project.folder)
    tabs: dict[str, Callable[[Project], Screen]] = {
        "Project": screen_project.build,
        "Recordings": functools.partial(screen_recordings.build, upload_limit_mb=upload_limit_mb),
        "Listen and correct": screen_clips.build,
        "Data": functools.partial(screen_data.build, upload_limit_mb=upload_limit_mb),
        "Vocabulary": screen_vocabulary.build,
        "Train": screen_train.build,
        "Resume": screen_resume.build,
        "Compare": screen_compare.build,
        "Export": screen_export.build,
    }
    with _Page(
        title=f"xtts_extend · {project.folder.name}", analytics_enabled=False, delete_cache=_DELETE_CACHE
    ) as page:
        gr.Markdown(f"# xtts_extend · {as_markdown(project.folder.name)}")
        screens: list[tuple[gr.Tab, Screen]] = []
        with gr.Tabs():
            for name, build_screen in tabs.items():
                with gr.Tab(name) as tab:
                    screens.append((tab, build_screen(project)))
        timers = [(timer, screen) for _, screen in screens for timer in screen.timers]
        for tab, screen in screens:
            opened = functools.partial(_open, screen, timers)
            outputs = [*screen.outputs, *(timer for timer, _ in timers)]
            tab.select(opened, None, outputs, show_progress="hidden", api_visibility="private")
        first = screens[0][1]
        page.load(
            functools.partial(_open, first, timers),
            None,
            [*first.outputs, *(timer for timer, _ in timers)],
            api_visibility="private",
        )
    return page


@says_errors
def _open(screen: Screen, timers: list[tuple[gr.Timer, Screen]]) -> list[Any]:
    """Return the updates for a screen when it is opened. Only this screen's timers run."""
    shown = screen.refresh()
    values = list(shown) if isinstance(shown, tuple) else [shown]
    return [*values, *(gr.Timer(active=owner is screen) for _, owner in timers)]
