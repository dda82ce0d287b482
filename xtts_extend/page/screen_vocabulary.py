"""The Vocabulary screen: letters and merges for the new language, and proof that old text keeps its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from xtts_extend.errors import ConfigError
from xtts_extend.files import atomic_write
from xtts_extend.page import command_lines, corrections
from xtts_extend.page.browser_input import checked_name, checked_number, checked_text
from xtts_extend.page.project import PREPARED, VOCABULARIES, Project
from xtts_extend.page.widgets import (
    Screen,
    as_markdown,
    choices,
    is_old_language,
    job_box,
    path_of,
    paths_of,
    says_errors,
    start_job,
)
from xtts_extend.text.tokenizer import load_tokenizer

_LONGEST_TEXT = 20_000
_OLD_TEXT = "It took me quite a long time to develop a voice, and now that I have it I'm not going to be silent."


def build(project: Project) -> Screen:
    """Build the screen in the current tab."""
    gr.Markdown(
        "The new vocabulary gets the letters of your language and merges learned from your texts. Existing ids never "
        "change, and text in the old languages is tokenized as before."
    )
    with gr.Row():
        texts = gr.Dropdown(label="Texts to learn from", choices=[], multiselect=True, info="Manifests or text files.")
        size = gr.Number(label="New entries", value=1000, minimum=1, maximum=20_000, precision=0)
        name = gr.Textbox(label="Name of the vocabulary", value="vocab")
    extend = gr.Button("Extend the vocabulary", variant="primary")
    shown_id, timer = job_box(project, ["extend-vocab"], "Extension")
    gr.Markdown("### Before and after")
    with gr.Row():
        vocabulary = gr.Dropdown(label="Vocabulary", choices=[])
        sample = gr.Textbox(label="Sentence in the new language", value="")
    compare = gr.Button("Show the tokens")
    tokens = gr.Dataframe(headers=["Vocabulary", "Tokens", "Sentence as tokens"], interactive=False, wrap=True)
    gr.Markdown("### Text in the old languages")
    old_text = gr.Textbox(label="Text in old languages", value=_OLD_TEXT, lines=3, info="One sentence per line.")
    prove = gr.Button("Prove that old text is tokenized as before")
    proof_id, proof_timer = job_box(project, ["check-vocab"], "Proof")
    proof = gr.Markdown()

    def refresh() -> tuple[Any, ...]:
        manifests = project.manifests()
        names = [entry.name for entry in manifests]
        own = [name for name in names if not is_old_language(project, name)]
        return gr.update(choices=names, value=own), choices(project.vocabularies()), _proof(project)

    @says_errors
    def start(names: list[str] | None, count: float, file_name: str) -> str:
        sources = [corrections.apply(project, path).manifest for path in paths_of(project.manifests(), names)]
        if not sources:
            raise ConfigError("Choose the texts to learn from. Add a manifest on the Data screen if there are none.")
        output = project.folder / VOCABULARIES / f"{checked_name(file_name.removesuffix('.json'))}.json"
        if output.exists():
            raise ConfigError(f"{output.name} already exists and will not be overwritten. Choose a different name.")
        arguments = command_lines.extend_vocab(
            _base(project), project.settings.language, sources, output, size=checked_number(count, 1, 20_000)
        )
        return start_job(project, "extend-vocab", arguments, f"Extension {output.name}")

    @says_errors
    def show_tokens(chosen: str, text: str) -> list[list[Any]]:
        language, sentence = project.settings.language, checked_text(text, 500)
        rows = []
        for title, path in (("base", _base(project)), (chosen, path_of(project.vocabularies(), chosen))):
            tokenizer = load_tokenizer(path)
            encoding = tokenizer.tokenizer.encode(tokenizer.preprocess_text(sentence, language).replace(" ", "[SPACE]"))
            rows.append([title, len(encoding.tokens), " · ".join(encoding.tokens)])
        return rows

    @says_errors
    def start_proof(chosen: str, text: str) -> str:
        file = project.folder / PREPARED / "old text.txt"
        with atomic_write(file) as content:
            content.write(checked_text(text, _LONGEST_TEXT).encode())
        arguments = command_lines.check_vocab(_base(project), path_of(project.vocabularies(), chosen), [file])
        return start_job(project, "check-vocab", arguments, f"Proof for {chosen}")

    options: dict[str, Any] = {"api_visibility": "private"}
    extend.click(start, [texts, size, name], shown_id, **options)
    compare.click(show_tokens, [vocabulary, sample], tokens, **options)
    prove.click(start_proof, [vocabulary, old_text], proof_id, **options)
    outputs = [vocabulary, proof]
    timer.tick(
        lambda: (choices(project.vocabularies()), _proof(project)), None, outputs, show_progress="hidden", **options
    )
    return Screen("Vocabulary", refresh, [texts, vocabulary, proof], [timer, proof_timer])


def _base(project: Project) -> Path:
    if not project.settings.base_dir:
        raise ConfigError("Choose a base model on the Project screen first.")
    return Path(project.settings.base_dir) / "vocab.json"


def _proof(project: Project) -> str:
    """Return the result of the last proof."""
    proofs = [job for job in project.jobs() if job.kind == "check-vocab"]
    result = proofs[-1].result() if proofs else None
    if result is None:
        return ""
    mark = "✅" if result.get("ok") else "❌"
    numbers = "\n".join(
        f"| {as_markdown(name.replace('_', ' '))} | {value} |" for name, value in result.items() if _is_number(value)
    )
    return f"{mark} {as_markdown(proofs[-1].label)}\n\n| | |\n| --- | --- |\n{numbers}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
