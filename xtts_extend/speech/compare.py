"""Compare models by ear and sample by sample: each speaks the same text in the same voice with the same seed."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from TTS.tts.models.xtts import Xtts

from xtts_extend.checkpoint.formats import is_safetensors
from xtts_extend.checkpoint.inspect import run_checkpoints
from xtts_extend.data.audio import save_wav
from xtts_extend.errors import (
    CheckFailed,
    CheckpointError,
    ConfigError,
    DataError,
    MachineError,
    PackError,
    XttsExtendError,
)
from xtts_extend.files import atomic_folder, require_new_folder
from xtts_extend.model.voice import Voice, read_text, speak_sentences
from xtts_extend.pack.file import SUFFIX, Pack, write_pack
from xtts_extend.pack.model_folder import PACKS, ModelFolder, open_packs
from xtts_extend.pack.route import attach
from xtts_extend.speech.export import merged_config
from xtts_extend.speech.finished_run import FinishedRun
from xtts_extend.speech.packing import make_pack
from xtts_extend.speech.speaking import build_model, load_base, load_model, load_voice
from xtts_extend.text.languages import validate_code
from xtts_extend.text.tokenizer import require_cleanable

#: Name of the file in a comparison's folder that contains the return value of `compare`.
RECORD = "compared.json"
_LARGEST_SEED = (1 << 63) - 1


@dataclass
class _Source:
    """A model to compare.

    Attributes:
        number: Its position in the list of models, starting at 1.
        path: The path that the user passed.
        kind: "base", "model folder", "run" or "pack".
        checkpoint: The run's checkpoint file that was used.
        reason: Why a run could not be used as a pack and its merged weights were used instead.
        languages: Language code → what was spoken, or the error.
    """

    number: int
    path: str
    kind: str
    checkpoint: str | None = None
    reason: str | None = None
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """The task that every source performs.

    Attributes:
        text: The text to speak in each language.
        languages: Codes.
        references: Recordings of the voice.
        seed: Random seed for sampling.
        folder: Folder for the WAV files.
        show: Function that is called with each source's number, language and result.
        base: The base's audio samples, by language.
    """

    text: str
    languages: Sequence[str]
    references: Sequence[Path]
    seed: int
    folder: Path
    show: Callable[[int, str, Mapping[str, Any]], None]
    base: dict[str, Tensor] = field(default_factory=dict)

    def speak(self, source: _Source, model: Xtts, voice: Voice) -> None:
        """Speak the text in all languages and write the WAV files."""
        for language in self.languages:
            try:
                samples = say(model, self.text, language, voice, self.seed)
                file = self.folder / f"{source.number}-{language}.wav"
                rate = model.config.audio.output_sample_rate
                save_wav(file, samples, rate)
            except XttsExtendError as error:
                self.fail(source, error, language)
                continue
            base = self.base.get(language)
            self._add(
                source,
                language,
                file=file.name,
                seconds=len(samples) / rate,
                sha256=hashlib.sha256(samples.numpy().data).hexdigest(),
                equals_base=None if base is None else torch.equal(samples, base),
            )

    def fail(self, source: _Source, error: XttsExtendError, *languages: str) -> None:
        """Record why a source cannot speak the given languages, or any language if none are given."""
        if isinstance(error, MachineError):
            raise error
        for language in languages or self.languages:
            self._add(source, language, error=str(error))

    def _add(self, source: _Source, language: str, **result: Any) -> None:
        source.languages[language] = result
        self.show(source.number, language, result)


def compare(
    base_dir: Path,
    sources: Sequence[Path],
    languages: Sequence[str],
    references: Sequence[Path],
    text: str,
    output: Path,
    *,
    seed: int = 0,
    show: Callable[[int, str, Mapping[str, Any]], None] = lambda number, language, result: None,
) -> dict[str, Any]:
    """Speak a text with each source, and compare the audio samples with the base's.

    Only one model is in memory at a time. Packs, and runs that can be exported as packs, use the base model.

    Args:
        base_dir: Folder of the base model. Packs in it are used only if the folder is itself a source.
        sources: Base directories, model folders, run folders, training checkpoints and language pack files.
        languages: Language codes. Each source speaks the text in each of these languages.
        references: Recordings of the voice.
        text: Text to speak.
        output: New folder for NUMBER-LANG.wav and compared.json. It is created once everything has been spoken.
        seed: Random seed for sampling.
        show: Function that is called with a source's number, a language and the result.

    Returns:
        The contents of compared.json: `base_dir`, `text`, `references`, `seed` and `sources`. Each source has `number`,
        `path`, `kind`, `checkpoint`, `reason` (see `_Source`) and `languages`, which maps each code to `file`,
        `seconds`, `sha256` of the float32 samples and `equals_base` (None if the base cannot speak the language), or to
        `error`.

    Raises:
        CheckpointError: A source does not exist or is of an unsupported kind, or the base is damaged.
        ConfigError: The base is incomplete, the output exists, or there is nothing to compare.
        DataError: The text is empty, or a recording cannot be used as a voice.
        LanguageError: A language code is malformed.
        MachineError: The output cannot be written.
    """
    if not text.strip():
        raise DataError("The text is empty. Use --text or --text-file to pass the text to be spoken.")
    if not sources or not languages:
        raise ConfigError("There is nothing to compare. Pass at least one --source and one --language.")
    if not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(f"--seed {seed}: expected a number from 0 to {_LARGEST_SEED}.")
    codes = [validate_code(language) for language in dict.fromkeys(languages)]
    require_new_folder(output)
    found = [_Source(number, str(path), _kind(path)) for number, path in enumerate(sources, start=1)]
    with atomic_folder(output) as folder:
        task = _Task(text, codes, references, seed, folder, show)
        for source, run in _speak_beside_base(found, task, base_dir):
            _free_memory()
            _speak_alone(source, run, task)
        record = {
            "base_dir": str(base_dir),
            "text": text,
            "references": [*map(str, references)],
            "seed": seed,
            "sources": [*map(asdict, found)],
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    return record


def say(xtts: Xtts, text: str, language: str, voice: Voice, seed: int = 0) -> Tensor:
    """Speak a text and return the audio, (samples,). The same seed always gives the same samples.

    Raises:
        LanguageError: The model does not speak the language.
        DataError: The text contains nothing to say.
        CheckpointError: The model's output is not finite.
    """
    require_cleanable(xtts.tokenizer, language)
    sentences = read_text(xtts, text, language).sentences
    torch.manual_seed(seed)
    try:
        parts = [torch.from_numpy(said["wav"]) for _, said in speak_sentences(xtts, sentences, language, voice)]
    except RuntimeError as error:
        # This is part of torch.multinomial's error message.
        if "probability tensor contains" not in str(error):
            raise
        raise CheckpointError(
            f"The model produces NaN or infinite values for '{language}': its weights are damaged, or its training "
            "diverged. Use an earlier checkpoint."
        ) from error
    return torch.cat(parts)


def _kind(path: Path) -> str:
    """Return the kind of source at a path, based on its contents."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                is_pack = is_safetensors(path, file.read(9))
            return "pack" if is_pack else "run"
        if path.is_dir() and run_checkpoints(path):
            return "run"
        if (path / "model.pth").is_file():
            return "model folder" if any((path / PACKS).glob(f"*{SUFFIX}")) else "base"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    found = "is neither a run nor a model folder" if path.exists() else "does not exist"
    raise CheckpointError(
        f"{path} {found}. Pass a base directory, a model folder, a run folder, a checkpoint or a language pack."
    )


def _speak_beside_base(
    sources: Sequence[_Source], task: _Task, base_dir: Path
) -> list[tuple[_Source, FinishedRun | None]]:
    """Synthesize the text with the base and with the sources that can be added to it as packs.

    Returns:
        The other sources, which each need a model of their own, and for each source that is a run, its `FinishedRun`.
    """
    folder = ModelFolder(base_dir)
    model = load_base(base_dir)
    voice = load_voice(model, task.references)
    for language in task.languages:
        try:
            task.base[language] = say(model, task.text, language, voice, task.seed)
        except XttsExtendError:
            # If the base itself is a source, the error is recorded there. Other sources may speak this language.
            continue
    apart: list[tuple[_Source, FinishedRun | None]] = []
    for source in sources:
        with tempfile.TemporaryDirectory(dir=task.folder, ignore_cleanup_errors=True) as scratch:
            try:
                packs, run = _packs(source, folder, Path(scratch))
                if packs is not None:
                    attach(model, packs, folder.vocabulary)
                    task.speak(source, model, voice)
                else:
                    apart.append((source, run))
            except XttsExtendError as error:
                task.fail(source, error)
            # Windows cannot remove a memory-mapped file.
            attach(model, {}, folder.vocabulary)
    return apart


def _packs(source: _Source, base: ModelFolder, scratch: Path) -> tuple[Mapping[str, Pack] | None, FinishedRun | None]:
    """Return the packs that a source adds to the base (None if it needs its own model), and a run's `FinishedRun`."""
    path = Path(source.path)
    if source.kind == "pack":
        pack = Pack.open(path)
        base.compare(pack)
        return {pack.info.language: pack}, None
    if source.kind != "run":
        return (open_packs(path) if path.samefile(base.path) else None), None
    try:
        run = FinishedRun.open(path, base.path)
        info, tensors = make_pack(run)
        source.checkpoint = str(run.path)
        return {info.language: write_pack(scratch / f"pack{SUFFIX}", info, tensors)}, run
    except (PackError, ConfigError, CheckFailed) as error:
        source.reason = str(error)
    run = FinishedRun.open(path)
    source.checkpoint = str(run.path)
    return None, run


def _speak_alone(source: _Source, run: FinishedRun | None, task: _Task) -> None:
    """Synthesize the text with the model in a folder, or with a run's merged weights."""
    try:
        if run is None:
            model = load_model(Path(source.path))
        else:
            model = build_model(merged_config(run), run.vocabulary.path, run.merged, run.path)
        task.speak(source, model, load_voice(model, task.references))
    except XttsExtendError as error:
        task.fail(source, error)


def _free_memory() -> None:
    """Free the memory of the previous model, whose modules form reference cycles."""
    gc.collect()
    torch.cuda.empty_cache()
