"""Convert answers from the page into arguments for `xtts-extend`.

Values are written as `--flag=value` and paths are absolute, so nothing that a user types can become a flag.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtts_extend.errors import ConfigError
from xtts_extend.text.languages import validate_code


@dataclass(frozen=True)
class Sentence:
    """A sentence that is spoken at every evaluation.

    Attributes:
        language: Language code.
        voice: Recording of the voice.
        text: Text of the sentence.
    """

    language: str
    voice: Path
    text: str


@dataclass(frozen=True)
class Training:
    """Answers on the Train screen. Where they are None or empty, the recipe's defaults are used.

    Attributes:
        base_dir: Base model's folder.
        output_dir: Folder in which run folders are created.
        language: Code of the language to learn.
        train_manifest: Training manifest.
        val_manifest: Validation manifest.
        vocab: Vocabulary; None for the base's.
        hours: Time limit in hours.
        max_steps: Step limit.
        epochs: Epoch limit.
        batch_size: Utterances per batch.
        batch_frames: Frames per batch, instead of the batch size; 0 fits the batch to the GPU's memory.
        grad_accum_steps: Batches per optimizer step.
        learning_rate: Learning rate.
        save_step: Steps between checkpoints.
        eval_step: Steps between evaluations.
        test_sentences: Sentences to speak at every evaluation.
        replay: Replay sets or manifests: path → language; empty for sets, which record their own.
        replay_share: Proportion of replay samples in the training data.
        other_val: Validation manifests of old languages: path → language.
        has_adapter: Whether to train an adapter alongside the transformer.
        adapter_rank: Rank of the adapter's matrices.
    """

    base_dir: Path
    output_dir: Path
    language: str
    train_manifest: Path
    val_manifest: Path | None = None
    vocab: Path | None = None
    hours: float | None = None
    max_steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    batch_frames: int | None = None
    grad_accum_steps: int | None = None
    learning_rate: float | None = None
    save_step: int | None = None
    eval_step: int | None = None
    test_sentences: Sequence[Sentence] = ()
    replay: Mapping[Path, str] = field(default_factory=dict)
    replay_share: float | None = None
    other_val: Mapping[Path, str] = field(default_factory=dict)
    has_adapter: bool = False
    adapter_rank: int | None = None


def shown(arguments: Sequence[str]) -> str:
    """Return the command line with these arguments, quoted for this machine's shell.

    >>> shown(["export", "--checkpoint=runs/my run"])
    "xtts-extend export '--checkpoint=runs/my run'"
    """
    line = ["xtts-extend", *arguments]
    return subprocess.list2cmdline(line) if sys.platform == "win32" else shlex.join(line)


def train(answers: Training) -> list[str]:
    """Return the arguments for starting training.

    Raises:
        ConfigError: A path or text cannot be written as an argument, or the batch size is given in two ways.
        LanguageError: A language code is malformed.
    """
    if answers.batch_size is not None and answers.batch_frames is not None:
        raise ConfigError("Give the batch size in utterances or in frames, not both.")
    language = validate_code(answers.language)
    manifests = [_spec(answers.val_manifest, language)] if answers.val_manifest else []
    manifests += [_spec(path, code) for path, code in answers.other_val.items()]
    return [
        "recipe",
        "run",
        "new_language",
        _path("--base-dir", answers.base_dir),
        _path("--output-dir", answers.output_dir),
        f"--language={language}",
        f"--train-manifest={_spec(answers.train_manifest, language)}",
        *(f"--val-manifest={spec}" for spec in manifests),
        *([_path("--vocab", answers.vocab)] if answers.vocab else []),
        *_limits(answers.hours, answers.max_steps, answers.epochs),
        *_value("--batch-size", answers.batch_size),
        *_value("--batch-frames", "auto" if answers.batch_frames == 0 else answers.batch_frames),
        *_value("--grad-accum-steps", answers.grad_accum_steps),
        *_value("--learning-rate", answers.learning_rate),
        *_value("--save-step", answers.save_step),
        *_value("--eval-step", answers.eval_step),
        *(f"--test-sentence={_sentence(one)}" for one in answers.test_sentences),
        *(f"--replay={_spec(path, code)}" for path, code in answers.replay.items()),
        *_value("--replay-share", answers.replay_share if answers.replay else None),
        *(["--adapter=lora"] if answers.has_adapter else []),
        *_value("--adapter-rank", answers.adapter_rank if answers.has_adapter else None),
    ]


def resume(
    checkpoint: Path,
    *,
    base_dir: Path | None = None,
    hours: float | None = None,
    max_steps: int | None = None,
    epochs: int | None = None,
    allow_changes: bool = False,
    new_run: bool = False,
) -> list[str]:
    """Return the arguments for resuming from a checkpoint, or from the newest one in a run folder.

    Args:
        checkpoint: Checkpoint file or run folder.
        base_dir: Base model's folder, if it has moved or the run did not record it.
        hours, max_steps, epochs: New limits.
        allow_changes: Resume even if values that define the run have changed.
        new_run: Continue in a new run folder.
    """
    return [
        "recipe",
        "run",
        "new_language",
        _path("--checkpoint", checkpoint),
        *([_path("--base-dir", base_dir)] if base_dir else []),
        *_limits(hours, max_steps, epochs),
        *(["--allow-changes"] if allow_changes else []),
        *(["--new-run"] if new_run else []),
    ]


def make_dataset(
    recordings: Sequence[Path],
    language: str,
    output: Path,
    *,
    text: Path | None = None,
    speaker: str = "",
    aligner: str = "",
    asr: str = "",
    asr_language: str = "",
    min_score: float | None = None,
) -> list[str]:
    """Return the arguments for making a data set from long recordings. For empty values, the defaults are used.

    Args:
        recordings: Recordings, or folders with recordings.
        language: Language code.
        output: Folder of the data set.
        text: Text of all recordings, instead of the texts beside them.
        speaker: Name of the speaker of all recordings.
        aligner: Model that aligns text and speech: a name or a folder for transformers.
        asr: Speech recognition model: a name or a folder for transformers.
        asr_language: Language code for both models, if they use a different one.
        min_score: Clips with a lower score are set aside.
    """
    return [
        "make-dataset",
        f"--language={validate_code(language)}",
        _path("--output", output),
        *([_path("--text", text)] if text else []),
        *_value("--speaker", speaker or None),
        *_value("--aligner", aligner or None),
        *_value("--asr", asr or None),
        *_value("--asr-language", asr_language or None),
        *_value("--min-score", min_score),
        *map(_absolute, recordings),
    ]


def check_data(
    manifest: Path, language: str, vocab: Path, *, cache: Path | None = None, write_clean: Path | None = None
) -> list[str]:
    """Return the arguments for checking a manifest, with JSON output."""
    return [
        "check-data",
        "--json",
        f"--manifest={_spec(manifest, validate_code(language))}",
        _path("--vocab", vocab),
        *([_path("--cache", cache)] if cache else []),
        *([_path("--write-clean", write_clean)] if write_clean else []),
    ]


def extend_vocab(
    base_vocab: Path, language: str, texts: Sequence[Path], output: Path, *, size: int | None = None
) -> list[str]:
    """Return the arguments for adding a language to a vocabulary, with JSON output."""
    return [
        "extend-vocab",
        "--json",
        _path("--base-vocab", base_vocab),
        f"--language={validate_code(language)}",
        *(_path("--text", text) for text in texts),
        *_value("--size", size),
        _path("--output", output),
    ]


def check_vocab(base_vocab: Path, vocab: Path, texts: Sequence[Path]) -> list[str]:
    """Return the arguments for comparing how two vocabularies tokenize old text, with JSON output."""
    return [
        "check-vocab",
        "--json",
        _path("--base-vocab", base_vocab),
        _path("--vocab", vocab),
        *(_path("--text", text) for text in texts),
    ]


def encode(manifest: Path, language: str, base_dir: Path, output: Path, *, vocab: Path | None = None) -> list[str]:
    """Return the arguments for computing the codes of a manifest's recordings, with JSON output."""
    return [
        "encode",
        "--json",
        f"--manifest={_spec(manifest, validate_code(language))}",
        _path("--base-dir", base_dir),
        *([_path("--vocab", vocab)] if vocab else []),
        _path("--output", output),
    ]


def make_replay(
    base_dir: Path, texts: Mapping[Path, str], references: Sequence[Path], hours: float, output: Path
) -> list[str]:
    """Return the arguments for synthesizing texts (path → language) with the base, with JSON output."""
    return [
        "make-replay",
        "--json",
        _path("--base-dir", base_dir),
        *(f"--text={validate_code(code)}={_absolute(path)}" for path, code in texts.items()),
        *(_path("--reference", reference) for reference in references),
        *_value("--hours", hours),
        _path("--output", output),
    ]


def inspect(path: Path, base_dir: Path) -> list[str]:
    """Return the arguments for comparing a checkpoint with its base, with JSON output."""
    return ["inspect", "--json", _path("--base", base_dir), _absolute(path)]


def export(
    checkpoint: Path,
    output: Path,
    *,
    base_dir: Path | None = None,
    merged: bool = False,
    rank: int | None = None,
    dtype: str = "float32",
    licence: str = "",
) -> list[str]:
    """Return the arguments for exporting a run as `speech.export.export` does, with JSON output.

    Args:
        checkpoint: Checkpoint or run folder.
        output: New folder, or a new file NAME.safetensors for the pack alone.
        base_dir: Base model's folder, if it has moved.
        merged: Write one set of weights for all languages.
        rank: Rank of the approximation of each matrix's change.
        dtype: Data type of the pack's tensors.
        licence: License of the recordings.
    """
    return [
        "export",
        "--json",
        _path("--checkpoint", checkpoint),
        _path("--output", output),
        *([_path("--base-dir", base_dir)] if base_dir else []),
        *(["--merged"] if merged else []),
        *_value("--rank", rank),
        *_value("--dtype", None if dtype == "float32" else dtype),
        *_value("--licence", licence or None),
    ]


def pack_add(pack: Path, model: Path) -> list[str]:
    """Return the arguments for adding a language pack to a model folder, with JSON output."""
    return ["pack", "add", "--json", _path("--model", model), _absolute(pack)]


def pack_remove(language: str, model: Path) -> list[str]:
    """Return the arguments for removing a language pack from a model folder, with JSON output."""
    return ["pack", "remove", "--json", _path("--model", model), validate_code(language)]


def compare(
    base_dir: Path,
    sources: Sequence[Path],
    languages: Sequence[str],
    references: Sequence[Path],
    text: str,
    output: Path,
    *,
    seed: int | None = None,
) -> list[str]:
    """Return the arguments for synthesizing a text with several models, with JSON output."""
    return [
        "compare",
        "--json",
        _path("--base-dir", base_dir),
        *(_path("--source", source) for source in sources),
        *(f"--language={validate_code(language)}" for language in languages),
        *(_path("--reference", reference) for reference in references),
        *_value("--text", text),
        *_value("--seed", seed),
        _path("--output", output),
    ]


def _limits(hours: float | None, max_steps: int | None, epochs: int | None) -> list[str]:
    minutes = None if hours is None else hours * 60
    return [*_value("--max-minutes", minutes), *_value("--max-steps", max_steps), *_value("--epochs", epochs)]


def _value(flag: str, value: str | float | None) -> list[str]:
    """Return a list with a flag and its value; it is empty if there is no value."""
    if value is None:
        return []
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    if "\0" in text:
        raise ConfigError(f"The value of {flag} contains a null character. Type it again.")
    return [f"{flag}={text}"]


def _absolute(path: Path) -> str:
    # Links are not resolved, so that users see the paths that they know.
    return os.path.abspath(path)


def _path(flag: str, path: Path) -> str:
    return f"{flag}={_absolute(path)}"


def _spec(path: Path, language: str) -> str:
    """Return PATH:LANG, or only the path if there is no language."""
    return f"{_absolute(path)}:{validate_code(language)}" if language else _absolute(path)


def _sentence(sentence: Sentence) -> str:
    """Return LANG:VOICE.wav:TEXT.

    Raises:
        ConfigError: The path contains a colon, which would end it, or the text is empty.
    """
    voice, text = _absolute(sentence.voice), " ".join(sentence.text.split())
    if ":" in os.path.splitdrive(voice)[1]:
        raise ConfigError(f"{voice} contains a colon, which is not allowed in the path of a voice. Rename it.")
    if not text:
        raise ConfigError("The test sentence is empty. Type a sentence, or clear its voice field.")
    return f"{validate_code(sentence.language)}:{voice}:{text}"
