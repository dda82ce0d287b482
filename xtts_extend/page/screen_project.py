"""The Project screen: what the project contains, what comes next, and whether the machine works."""

from __future__ import annotations

from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.page.browser_input import pick
from xtts_extend.page.project import Project, Settings
from xtts_extend.page.widgets import Screen, as_markdown, describe_job, job_box, says_errors, start_job, time_of
from xtts_extend.text.languages import validate_code

_RECENT_JOBS = 15


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    step = gr.Markdown()
    with gr.Row():
        language = gr.Textbox(label="Language to learn", info="Two- or three-letter code, such as am for Amharic.")
        base = gr.Dropdown(
            label="Base model", info="Folders with config.json and model.pth. Add one with `--base-dir`.", choices=[]
        )
    save = gr.Button("Save project", variant="primary")
    contents = gr.Markdown()
    gr.Markdown("### Machine")
    check = gr.Button("Check this machine")
    shown_id, timer = job_box(project, ["check-env"], "Machine check")
    gr.Markdown("### Jobs")
    job_list = gr.Dataframe(headers=["Job", "State", "Started", "Command"], interactive=False, wrap=True)

    def refresh() -> tuple[Any, ...]:
        settings, bases = project.settings, project.bases()
        names = [entry.name for entry in bases]
        chosen = next((entry.name for entry in bases if str(entry.path) == settings.base_dir), None)
        recent = project.jobs()[: -_RECENT_JOBS - 1 : -1]
        return (
            _next_step(project),
            settings.language,
            gr.update(choices=names, value=chosen),
            _contents(project),
            [[job.label, describe_job(job).split(" · ")[1], time_of(job), job.command] for job in recent],
        )

    @says_errors
    def store(code: str, base_name: str | None) -> tuple[Any, ...]:
        if not base_name:
            raise ConfigError("Choose a base model. If the list is empty, restart xtts-extend ui with --base-dir.")
        found = pick(base_name, project.bases())
        project.save(Settings(validate_code(code.strip()), str(found.path)))
        gr.Info("The project has been saved.")
        return refresh()

    @says_errors
    def check_machine() -> str:
        return start_job(project, "check-env", ["check-env"], "Machine check")

    outputs = [step, language, base, contents, job_list]
    save.click(store, [language, base], outputs, api_visibility="private")
    check.click(check_machine, None, shown_id, api_visibility="private")
    return Screen("Project", refresh, outputs, [timer])


def _next_step(project: Project) -> str:
    step = project.next_step()
    return f"**Next:** {as_markdown(step.sentence)} *({step.screen} screen)*"


def _contents(project: Project) -> str:
    lines = [f"Folder: {as_markdown(project.folder)}", "", "| | | |", "| --- | --- | --- |"]
    for title, listing in (
        ("Manifests", project.manifests()),
        ("Voices", project.voices()),
        ("Vocabularies", project.vocabularies()),
        ("Runs", project.runs()),
        ("Models", project.models()),
        ("Packs", project.packs()),
    ):
        names = ", ".join(as_markdown(entry.name) for entry in listing.entries[:10])
        lines.append(f"| {title} | {len(listing):,} | {names or '–'} |")
        lines += [f"| | ⚠️ | {as_markdown(reason)} |" for reason in listing.skipped[:5]]
    return "\n".join(lines)
