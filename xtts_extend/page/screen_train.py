"""The Train screen: five questions, the exact command, and the run while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from xtts_extend.errors import ConfigError
from xtts_extend.page import command_lines, corrections
from xtts_extend.page.browser_input import checked_number, checked_text
from xtts_extend.page.command_lines import Sentence, Training
from xtts_extend.page.project import RUNS, Project
from xtts_extend.page.run_view import Spoken, curves, spoken_sentences, view_run
from xtts_extend.page.widgets import (
    INTERVAL_S,
    Screen,
    as_markdown,
    choices,
    is_old_language,
    job_box,
    path_of,
    paths_of,
    says_errors,
    shown_file,
    start_job,
)
from xtts_extend.run.requests import request

NO_VALIDATION = "None: keep the newest checkpoint instead of the best"
BASE_VOCABULARY = "The base model's own"
_LONGEST_SENTENCE = 400


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    with gr.Row():
        train_manifest = gr.Dropdown(label="1. Which recordings should the model learn from?", choices=[])
        val_manifest = gr.Dropdown(label="2. Which recordings should it be tested on?", choices=[NO_VALIDATION])
        vocabulary = gr.Dropdown(label="3. Which vocabulary?", choices=[BASE_VOCABULARY])
    with gr.Row():
        amount = gr.Number(label="4. How long?", value=24, minimum=0.01)
        unit = gr.Radio(["hours", "steps"], label="Unit", value="hours")
    with gr.Row():
        voice = gr.Dropdown(label="5. Which voice should speak a test sentence?", choices=[], info="Optional.")
        sentence = gr.Textbox(
            label="Test sentence", info="Spoken at every evaluation, so that you can hear the progress."
        )
    with gr.Accordion("More settings", open=False), gr.Row():
        batch_size = gr.Number(label="Utterances per batch", info="0 uses the recipe's default.", value=0, precision=0)
        learning_rate = gr.Number(label="Learning rate", info="0 uses the recipe's default.", value=0)
        eval_step = gr.Number(
            label="Steps between evaluations",
            info="0 evaluates once per epoch.",
            value=0,
            precision=0,
        )
        save_step = gr.Number(
            label="Steps between checkpoints", info="0 uses the recipe's default.", value=0, precision=0
        )
        old = gr.Dropdown(
            label="Recordings in old languages",
            info="Manifests named after a language of the base, such as en.csv. They are evaluated during training.",
            choices=[],
            multiselect=True,
        )
    questions = [
        train_manifest, val_manifest, vocabulary, amount, unit, voice, sentence, batch_size, learning_rate, eval_step,
        save_step, old,
    ]  # fmt: skip
    command = gr.Textbox(label="The exact command", lines=2, max_lines=8, interactive=False)
    with gr.Row():
        preview = gr.Button("Show the command")
        start = gr.Button("Start training", variant="primary")
    shown_id, timer = job_box(project, ["train"], "Training")

    gr.Markdown("### Runs")
    run = gr.Dropdown(label="Run", choices=[])
    state = gr.Markdown(elem_classes="run-state")
    with gr.Row():
        stop = gr.Button("Stop", variant="stop")
        save = gr.Button("Save now")
        evaluate = gr.Button("Evaluate now")
    with gr.Row():
        losses = gr.LinePlot(x="step", y="loss", title="Training loss (mel)", x_title="step", y_title="loss")
        evaluations = gr.LinePlot(
            x="step", y="loss", color="language", title="Evaluation loss (mel)", x_title="step", y_title="loss"
        )
    kept = gr.Dataframe(headers=["Step", "Language", "Loss (mel)", "Retention"], interactive=False)
    with gr.Row():
        spoken = gr.Dropdown(label="Test sentence to play", choices=[])
        player = gr.Audio(label="Test sentence", interactive=False)

    def refresh() -> tuple[Any, ...]:
        manifests, runs = project.manifests(), project.runs()
        names = [entry.name for entry in manifests]
        chosen = next((name for name in names if "train" in name), names[0] if names else None)
        tested = next((name for name in names if "val" in name or "test" in name), NO_VALIDATION)
        own = [entry.name for entry in project.vocabularies()]
        return (
            gr.update(choices=names, value=chosen),
            gr.update(choices=[*names, NO_VALIDATION], value=tested),
            gr.update(choices=[BASE_VOCABULARY, *own], value=own[-1] if own else BASE_VOCABULARY),
            gr.update(choices=[entry.name for entry in project.voices()]),
            gr.update(choices=[name for name in names if is_old_language(project, name)]),
            choices(sorted(runs, key=lambda entry: entry.path.stat().st_mtime)),
        )

    @says_errors
    def show_command(*answers: Any) -> str:
        return command_lines.shown(command_lines.train(_training(project, *answers)))

    @says_errors
    def start_training(*answers: Any) -> tuple[str, str]:
        arguments = command_lines.train(_training(project, *answers))
        label = f"Training {project.settings.language}"
        return start_job(project, "train", arguments, label), command_lines.shown(arguments)

    def watch(name: str | None) -> tuple[Any, ...]:
        runs = sorted(project.runs(), key=lambda entry: entry.path.stat().st_mtime)
        names = [entry.name for entry in runs]
        if not names:
            return gr.skip(), "No runs yet.", *[gr.skip()] * 4
        if name not in names or _has_newer_live_run(runs[-1].path, name):
            name = names[-1]
        view, lines = view_run(path_of(project.runs(), name)), curves(path_of(project.runs(), name))
        table = pd.DataFrame(lines.evaluations)
        rows = [[*row[:2], _rounded(row[2]), _rounded(row[3])] for row in table.itertuples(index=False, name=None)]
        sentences = [_title(one) for one in spoken_sentences(view.folder)]
        return (
            gr.update(choices=names, value=name),
            f"{'🟢' if view.is_live else '⚪'} {as_markdown(f'{view.describe()} {view.problem}')}",
            pd.DataFrame(lines.training),
            table.dropna(subset=["loss"]) if len(table) else pd.DataFrame({"step": [], "loss": [], "language": []}),
            rows[::-1],
            gr.update(choices=sentences[::-1]),
        )

    def ask(name: str) -> Any:
        @says_errors
        def handler(run_name: str) -> None:
            path = path_of(project.runs(), run_name)
            if not view_run(path).is_live:
                raise ConfigError(f"{run_name} is not training, so it cannot do this. Resume it first.")
            request(path, name)
            gr.Info({"stop": "The run will stop after this step.", "save": "The run will save a checkpoint."}.get(
                name, "The run will evaluate after this step."
            ))  # fmt: skip

        return handler

    @says_errors
    def play(run_name: str, title: str | None) -> str | None:
        found = spoken_sentences(path_of(project.runs(), run_name)) if title else []
        return next((shown_file(project, one.path) for one in found if _title(one) == title), None)

    options: dict[str, Any] = {"api_visibility": "private"}
    preview.click(show_command, questions, command, **options)
    start.click(start_training, questions, [shown_id, command], **options)
    live = [run, state, losses, evaluations, kept, spoken]
    run_timer = gr.Timer(2 * INTERVAL_S, active=False)
    gr.on([run_timer.tick, run.input], watch, run, live, show_progress="hidden", **options)
    for button, name in ((stop, "stop"), (save, "save"), (evaluate, "evaluate")):
        button.click(ask(name), run, None, **options)
    spoken.input(play, [run, spoken], player, **options)
    return Screen("Train", refresh, [train_manifest, val_manifest, vocabulary, voice, old, run], [timer, run_timer])


def _training(
    project: Project,
    train_name: str,
    val_name: str,
    vocabulary: str,
    amount: float,
    unit: str,
    voice: str | None,
    sentence: str,
    batch_size: float | None,
    learning_rate: float | None,
    eval_step: float | None,
    save_step: float | None,
    old: list[str] | None,
) -> Training:
    """Return the checked answers, after writing the corrected manifests.

    Raises:
        ConfigError, DataError: An answer cannot be used.
    """
    settings, manifests = project.settings, project.manifests()
    if not settings.base_dir or not settings.language:
        raise ConfigError("Choose the language and the base model on the Project screen first.")
    has_val = val_name and val_name != NO_VALIDATION
    sentences = []
    if voice and sentence.strip():
        path = path_of(project.voices(), voice)
        sentences = [Sentence(settings.language, path, checked_text(sentence, _LONGEST_SENTENCE))]
    return Training(
        base_dir=Path(settings.base_dir),
        output_dir=project.folder / RUNS,
        language=settings.language,
        train_manifest=corrections.apply(project, path_of(manifests, train_name)).manifest,
        val_manifest=corrections.apply(project, path_of(manifests, val_name)).manifest if has_val else None,
        vocab=None if vocabulary == BASE_VOCABULARY else path_of(project.vocabularies(), vocabulary),
        hours=checked_number(amount, 0.01, 10_000.0) if unit == "hours" else None,
        max_steps=checked_number(amount, 1, 10**8) if unit == "steps" else None,
        test_sentences=sentences,
        batch_size=None if not batch_size else checked_number(batch_size, 1, 4096),
        learning_rate=None if not learning_rate else checked_number(learning_rate, 0.0, 1.0),
        eval_step=None if not eval_step else checked_number(eval_step, 1, 10**8),
        save_step=None if not save_step else checked_number(save_step, 1, 10**8),
        other_val={path: path.stem for path in paths_of(manifests, old)},
    )


def _has_newer_live_run(newest: Path, name: str | None) -> bool:
    return name is None or (newest.name != name and view_run(newest).is_live)


def _title(spoken: Spoken) -> str:
    return f"step {spoken.step:,} · {spoken.language} · {spoken.text[:60]} · {spoken.path.stem}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
