"""The Listen and correct screen: the clips of the data set, the worst first, with their texts and limits."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt

from xtts_extend.corpus.edits import EDITS_FILE, Edit, append_edit, apply_edit, merge_edits
from xtts_extend.corpus.recording import read_span
from xtts_extend.errors import ConfigError, XttsExtendError
from xtts_extend.page.browser_input import checked_number, checked_text, pick
from xtts_extend.page.dataset_view import (
    ACCEPTED,
    WAITING,
    EditedClip,
    audio_of,
    dataset_folder,
    duration_s,
    edited_clips,
    groups,
    in_group,
    version_of,
    working_copy,
)
from xtts_extend.page.project import DATA, DATASET, Project
from xtts_extend.page.screen_recordings import MAKE_DATASET, start_making
from xtts_extend.page.widgets import Screen, as_markdown, job_box, says_errors, shown_file

_ROWS = 20
_LONGEST_TEXT = 2_000
#: Longest part of a recording that is played, in seconds.
_LONGEST_SPAN_S = 60.0
#: Latest time in a recording, in seconds.
_LATEST_S = 1e6
#: Sample rate in Hz at which parts of a recording are played.
_RATE = 24_000
_QUIETEST_PEAK = 1e-4


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    gr.Markdown(
        "Clips of the data set that was made on the *Recordings* screen, the worst first. Correct the text or the "
        "limits of a clip, drop it, or accept one that was set aside."
    )
    note = gr.Markdown()
    with gr.Row():
        group = gr.Dropdown(label="Clips", choices=[ACCEPTED], value=ACCEPTED)
        first = gr.Number(label="First clip", value=1, minimum=1, precision=0)
    table = gr.Dataframe(headers=["Clip", "Score", "Start", "End", "Clip text", "Status"], interactive=False, wrap=True)
    with gr.Row():
        chosen = gr.Textbox(label="Clip", info="Click a clip in the table.", interactive=False)
        player = gr.Audio(label="Clip as it is now", interactive=False)
    text = gr.Textbox(label="Text of the clip", lines=2)
    with gr.Row():
        start = gr.Number(label="Start (s)", precision=3, step=0.05)
        end = gr.Number(label="End (s)", precision=3, step=0.05)
        span = gr.Audio(label="From the new start to the new end", interactive=False)
    with gr.Row():
        save = gr.Button("Save and accept", variant="primary")
        drop = gr.Button("Drop the clip")
        hear = gr.Button("Hear the new start and end")
    gr.Markdown(
        f"Each correction is stored at once in `{DATA}/{DATASET}/{EDITS_FILE}`, even during a run. It takes effect in "
        "the next run of make-dataset, which repeats only what has changed."
    )
    apply = gr.Button("Apply the corrections (run make-dataset again)")
    shown_id, timer = job_box(project, [MAKE_DATASET], "Applying the corrections")
    version = gr.State(())

    def listed(name: str, start_at: float) -> tuple[Any, ...]:
        clips = edited_clips(project)
        sizes = groups(clips)
        name = name if name in sizes else next(iter(sizes), ACCEPTED)
        skip = checked_number(start_at, 1, 10**9) - 1
        choices = [(f"{title.replace('_', ' ')} ({size:,})", title) for title, size in sizes.items()]
        return (
            _note(clips),
            gr.update(choices=choices or [ACCEPTED], value=name),
            [_row(one) for one in in_group(clips, name)[skip : skip + _ROWS]],
            version_of(project),
        )

    def refresh() -> tuple[Any, ...]:
        return (*watch((), ACCEPTED, 1), 1)

    def watch(seen: tuple[int, ...], name: str, start_at: float) -> tuple[Any, ...]:
        if seen == version_of(project):
            return (gr.skip(),) * 4
        try:
            return listed(name, start_at)
        except XttsExtendError as error:
            return f"⚠️ {as_markdown(error)}", gr.skip(), [], version_of(project)

    @says_errors
    def show(clip_id: str) -> tuple[Any, ...]:
        one = pick(clip_id, edited_clips(project))
        path = audio_of(project, one.clip)
        return shown_file(project, path) if path else None, one.text, round(one.start_s, 3), round(one.end_s, 3), None

    def correct(action: str) -> Any:
        @says_errors
        def handler(
            clip_id: str, new_text: str, new_start: float, new_end: float, name: str, start_at: float
        ) -> tuple[Any, ...]:
            one = pick(clip_id, edited_clips(project))
            edit = Edit(one.name, drop=True) if action == "drop" else _edit(one, new_text, new_start, new_end)
            # An edit that cannot be applied would stop the next run.
            apply_edit(one.clip, merge_edits(one.edit, edit), duration_s(project, one.clip))
            append_edit(dataset_folder(project) / EDITS_FILE, edit)
            gr.Info("Saved for the next run of make-dataset.")
            return listed(name, start_at)

        return handler

    @says_errors
    def play(clip_id: str, new_start: float, new_end: float) -> tuple[int, npt.NDArray[np.int16]]:
        one = pick(clip_id, edited_clips(project))
        start_s, end_s = _seconds(new_start), _seconds(new_end)
        if not 0 < end_s - start_s <= _LONGEST_SPAN_S:
            raise ConfigError(
                f"Expected an end that is up to {_LONGEST_SPAN_S:.0f} s after the start, got {start_s:g} to {end_s:g} "
                "s. Correct start or end."
            )
        copy = working_copy(project, one.clip)
        if copy is None:
            raise ConfigError(
                f"The working copy of {one.clip.recording} is missing. Run make-dataset, which writes it."
            )
        audio = read_span(copy, start_s, end_s, _RATE)
        if not len(audio):
            raise ConfigError(f"The recording ends before {start_s:g} s. Correct start and end.")
        # The working copy has the recording's own level, which may be too low to hear.
        peak = max(float(np.abs(audio).max()), _QUIETEST_PEAK)
        return _RATE, (audio * (32_000 / peak)).astype(np.int16)

    @says_errors
    def run_again() -> str:
        made = [job for job in project.jobs() if job.kind == MAKE_DATASET]
        if not made or f"--output={dataset_folder(project)}" not in made[-1].arguments:
            raise ConfigError("Start make-dataset on the Recordings screen. It also applies the corrections.")
        return start_making(project, list(made[-1].arguments))

    options: dict[str, Any] = {"api_visibility": "private"}
    listing = [note, group, table, version]
    table.select(_selected, None, chosen, **options)
    chosen.change(show, chosen, [player, text, start, end, span], **options)
    group.input(says_errors(lambda name: (*listed(name, 1), 1)), group, [*listing, first], **options)
    first.change(says_errors(listed), [group, first], listing, **options)
    for button, action in ((save, "save"), (drop, "drop")):
        button.click(correct(action), [chosen, text, start, end, group, first], listing, **options)
    hear.click(play, [chosen, start, end], span, **options)
    apply.click(run_again, None, shown_id, **options)
    timer.tick(watch, [version, group, first], listing, show_progress="hidden", **options)
    return Screen("Listen and correct", refresh, [*listing, first], [timer])


@says_errors
def _selected(event: gr.SelectData) -> str:
    """Return the id of the clip that was clicked, also if the browser has sorted the table."""
    return str(event.row_value[0])


def _seconds(value: float) -> float:
    """Return a time in a recording, which the page shows and edits with a resolution of 1 ms."""
    return round(checked_number(value, 0.0, _LATEST_S), 3)


def _edit(one: EditedClip, text: str, start: float, end: float) -> Edit:
    """Return the edit that accepts a clip with these values; it contains only values that are new.

    Raises:
        ConfigError: A value cannot be used, or nothing would change.
    """
    start_s, end_s = _seconds(start), _seconds(end)
    said = checked_text(text, _LONGEST_TEXT).strip()
    edit = Edit(
        one.name,
        text=said if said != one.text else None,
        start=start_s if start_s != round(one.start_s, 3) else None,
        end=end_s if end_s != round(one.end_s, 3) else None,
        drop=False,
    )
    is_accepted = one.clip.rejected is None and not one.is_dropped
    if is_accepted and (edit.text, edit.start, edit.end) == (None, None, None):
        raise ConfigError("Nothing has changed: the clip is accepted with this text, start and end.")
    return edit


def _row(one: EditedClip) -> list[Any]:
    return [one.name, round(one.clip.scores.score, 3), round(one.start_s, 3), round(one.end_s, 3), one.text, one.status]


def _note(clips: tuple[EditedClip, ...]) -> str:
    if not clips:
        return "There are no clips yet. Make a data set on the *Recordings* screen first."
    waiting = groups(clips).get(WAITING, 0)
    return f"Corrections that wait for the next run: {waiting:,}. Clips are shown {_ROWS} at a time."
