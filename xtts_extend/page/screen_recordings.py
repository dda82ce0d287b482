"""The Recordings screen: long recordings and their texts become a data set of short clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.corpus.dataset_files import TRAIN_FILE, VALIDATION_FILE
from xtts_extend.corpus.sources import Source
from xtts_extend.errors import ConfigError, XttsExtendError
from xtts_extend.page import command_lines, uploads
from xtts_extend.page.browser_input import checked_name, checked_number, model_source, pick
from xtts_extend.page.dataset_view import dataset_folder, summarize
from xtts_extend.page.project import DATA, DATASET, RECORDINGS, Project
from xtts_extend.page.screen_data import named_upload
from xtts_extend.page.sources_view import list_sources
from xtts_extend.page.widgets import Screen, as_markdown, job_box, says_errors, start_job

#: The kind of the jobs that make a data set.
MAKE_DATASET = "make-dataset"
BESIDE = "The text beside each recording"
_PROBLEMS = 20


def build(project: Project, upload_limit_mb: int) -> Screen:
    """Build the screen in the current tab."""
    limit = upload_limit_mb * 1_000_000
    gr.Markdown(
        "Make a data set from long recordings, such as an audiobook, sermons or an hour with subtitles. To train on "
        "short recordings that have a table of their texts, go to the *Data* screen instead."
    )
    with gr.Accordion("Add long recordings", open=True):
        gr.Markdown(
            "Upload recordings or videos, with subtitles (`talk.srt` for `talk.mp3`; also VTT, ASS and TTML) or a "
            "transcript (`talk.txt`, or one `.txt` for all recordings of a folder), or a zip archive of them. In an "
            "archive, each folder is a speaker. A recording without text needs a speech recognizer. "
            f"Up to {upload_limit_mb:,} MB at a time; copy larger files into `{RECORDINGS}/`."
        )
        files = named_upload("Recordings and texts to add")
        add = gr.Button("Add recordings", variant="primary")
    table = gr.Dataframe(headers=["Long recording", "MB", "Its text", "Speaker"], interactive=False, wrap=True)
    problems = gr.Markdown()
    gr.Markdown("### Make a data set")
    with gr.Row():
        text = gr.Dropdown(label="Text of the recordings", choices=[BESIDE], value=BESIDE)
        speaker = gr.Textbox(label="Speaker", info="Empty: the name of the recording's folder.")
        # Browsers show and send an empty number field as 0.
        min_score = gr.Textbox(
            label="Lowest score", info="From 0 to 1. Clips below it are set aside. Empty: the default."
        )
    with gr.Row():
        aligner = gr.Textbox(
            label="Alignment model",
            info="A transformers model with CTC, or a folder in the project. Empty: the default, MMS (CC BY-NC 4.0).",
        )
        asr = gr.Textbox(
            label="Speech recognizer", info="A transformers model, or a folder in the project. Empty: none."
        )
        asr_language = gr.Textbox(
            label="Language code of the models", info="If they use a different one, such as amh for MMS."
        )
    form = [text, speaker, min_score, aligner, asr, asr_language]
    command = gr.Textbox(label="The exact make-dataset command", lines=2, max_lines=8, interactive=False)
    with gr.Row():
        preview = gr.Button("Show the make-dataset command")
        start = gr.Button("Make the data set", variant="primary")
    shown_id, timer = job_box(project, [MAKE_DATASET], "Making the data set")
    result = gr.Markdown()

    def refresh() -> tuple[Any, ...]:
        found = list_sources(project)
        return (
            [_row(project, source) for source in found.recordings],
            "\n".join(f"- ⚠️ {as_markdown(sentence)}" for sentence in found.problems[:_PROBLEMS]),
            gr.update(choices=[BESIDE, *found.texts]),
            _result(project),
        )

    @says_errors
    def store(given: list[tuple[Path, str]] | None) -> tuple[Any, ...]:
        if not given:
            raise ConfigError("Choose recordings first.")
        gr.Info(f"Files added: {len(uploads.store_recordings(project, given, limit)):,}.")
        return (*refresh(), None)

    @says_errors
    def show_command(*answers: Any) -> str:
        return command_lines.shown(_arguments(project, *answers))

    @says_errors
    def make(*answers: Any) -> tuple[str, str]:
        arguments = _arguments(project, *answers)
        return start_making(project, arguments), command_lines.shown(arguments)

    options: dict[str, Any] = {"api_visibility": "private"}
    outputs = [table, problems, text, result]
    add.click(store, files, [*outputs, files], **options)
    preview.click(show_command, form, command, **options)
    start.click(make, form, [shown_id, command], **options)
    timer.tick(lambda: _result(project), None, result, show_progress="hidden", **options)
    return Screen("Recordings", refresh, outputs, [timer])


def start_making(project: Project, arguments: list[str]) -> str:
    """Start a job that makes the data set and return its ID.

    Raises:
        ConfigError: Such a job is running.
    """
    if any(job.kind == MAKE_DATASET and job.state == "running" for job in project.jobs()):
        raise ConfigError("The data set is already being made. Wait until that job has finished, or stop it first.")
    return start_job(project, MAKE_DATASET, arguments, f"Data set {project.settings.language}")


def _arguments(
    project: Project,
    text: str,
    speaker: str,
    min_score: str,
    aligner: str,
    asr: str,
    asr_language: str,
) -> list[str]:
    """Return the checked arguments of make-dataset.

    Raises:
        ConfigError, LanguageError: An answer cannot be used.
    """
    if not project.settings.language:
        raise ConfigError("Choose the language on the Project screen first.")
    found = list_sources(project)
    if not found.recordings:
        raise ConfigError(f"There are no recordings in {project.folder / RECORDINGS} that can be used. Add some first.")

    def model(name: str) -> str:
        return model_source(project.folder, name.strip()) if name.strip() else ""

    return command_lines.make_dataset(
        [project.folder / RECORDINGS],
        project.settings.language,
        dataset_folder(project),
        text=None if text == BESIDE else found.texts[pick(text, found.texts)],
        speaker=checked_name(speaker.strip()) if speaker.strip() else "",
        aligner=model(aligner),
        asr=model(asr),
        asr_language=checked_name(asr_language.strip()) if asr_language.strip() else "",
        min_score=checked_number(min_score, 0.0, 1.0) if min_score.strip() else None,
    )


def _row(project: Project, source: Source) -> list[Any]:
    text = "none" if source.text_path is None else f"{source.text_path.name} ({source.kind.value})"
    name = source.path.relative_to(project.folder / RECORDINGS).as_posix()
    return [name, round(source.path.stat().st_size / 1e6, 1), text, source.speaker_name]


def _result(project: Project) -> str:
    """Return the counts of the data set and what to do next."""
    try:
        found = summarize(project)
    except XttsExtendError as error:
        return f"⚠️ {as_markdown(error)}"
    if found is None:
        return ""
    lines = [
        f"### Data set in `{DATA}/{DATASET}`",
        "| | items | hours |",
        "| --- | --- | --- |",
        f"| accepted ({found.train:,} for training, {found.val:,} for validation) | {found.train + found.val:,} "
        f"| {found.accepted_s / 3600:.2f} |",
    ]
    for meaning, (count, seconds) in found.set_aside.items():
        lines.append(f"| set aside: {as_markdown(meaning)} | {count:,} | {seconds / 3600:.2f} |")
    lines += [
        "",
        f"**Next:** listen to the worst clips on the *Listen and correct* screen. `{DATASET}/{TRAIN_FILE}` and, unless "
        f"there are no clips for validation, `{DATASET}/{VALIDATION_FILE}` can be chosen like other manifests on the "
        "*Data*, *Vocabulary* and *Train* screens.",
    ]
    return "\n".join(lines)
