"""Which tensors a call of `Xtts` computes with: those of its language's pack, or the base's very same ones.

For the time of a call a pack's tensors take the places of the base's in the modules' tables of parameters. The modules
stay: coqui's GPT shares them with what it generates with, and makes that anew at every `eval()`. Afterwards the same
parameter objects as before are put back, so the base is neither computed again nor copied.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from xtts_extend.errors import PackError
from xtts_extend.model.adapter import matrix_of
from xtts_extend.pack.file import Pack
from xtts_extend.text.vocabulary import Vocabulary, load_vocabulary

logger = logging.getLogger("trainer")

#: Packs whose tensors stay in memory; the published model's take up to 1.6 GB each.
RESIDENT = 2

_MARK = "_xtts_extend_routed"


class _Slot(NamedTuple):
    """Where a module keeps a parameter, and what it keeps there now."""

    parameters: dict[str, Any]
    key: str
    parameter: Parameter


class Packs:
    """The packs of a model, which are its attribute `packs`.

    A call holds the model from its routing to its end, in a base's language as well; calls of other threads wait. A
    stream holds it from its first chunk until it is exhausted, closed or collected.

    Attributes:
        packs: by their languages.
        added: those languages that the model did not list before.
        resident: packs whose tensors stay in memory once they were read; the least recently used one leaves first.
    """

    def __init__(self, packs: Mapping[str, Pack], added: tuple[str, ...] = (), resident: int = RESIDENT) -> None:
        self.packs = dict(packs)
        self.added = added
        self.resident = resident
        # the least recently used one first
        self._read: dict[str, dict[str, Parameter]] = {}
        # not an RLock: a stream may be read on, or collected, by another thread than the one that began it
        self._lock = threading.Lock()
        # not its number, which a later thread can have
        self._thread: threading.Thread | None = None
        self._pack: Pack | None = None
        self._calls = self._streams = 0
        self._base: list[_Slot] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a model shares neither the lock nor what was read."""
        return type(self), (self.packs, self.added, self.resident)

    @contextmanager
    def held(self, model: Any, language: str, *, alone: bool = False) -> Iterator[None]:
        """Hold the model, with the tensors of a language in place.

        Within it calls of the same thread use what is in place, see `routed`.

        Args:
            model: whose packs these are.
            language: of the call.
            alone: no tensors but those of this language will do.

        Raises:
            PackError: the pack is damaged, the model cannot be routed, or the thread holds the model for another one.
        """
        pack = self.packs.get(language.split("-")[0])
        if self._thread is threading.current_thread():
            self._require_nested(pack, language, alone)
        else:
            self._lock.acquire()
            try:
                self._route(model, pack)
            except BaseException:
                self._release()
                raise
            self._thread, self._pack = threading.current_thread(), pack
        self._calls += 1
        try:
            yield
        finally:
            if self._calls == 1:
                self._release()
            else:
                self._calls -= 1

    def stream(self, model: Any, language: str, chunks: Generator[Any, None, None]) -> Iterator[Any]:
        """The chunks of a stream, which holds the model from the first one on."""
        with self.held(model, language):
            begun_by = self._thread
            self._streams += 1
            try:
                with closing(chunks):
                    for chunk in chunks:
                        yield chunk
                        # servers read each chunk in another thread of a pool
                        self._thread = threading.current_thread()
            finally:
                # the last one out releases; until then the thread that has the stream must not pass as nested
                if self._calls > 1:
                    self._streams -= 1
                    self._thread = begun_by

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Wait until nobody speaks, and let nobody begin.

        Raises:
            PackError: this thread speaks itself.
        """
        if self._thread is threading.current_thread():
            raise PackError(
                "The model cannot get other weights or packs while this thread has a stream or a `routed` block of it "
                "open. Close it first."
            )
        with self._lock:
            yield

    def _require_nested(self, pack: Pack | None, language: str, alone: bool) -> None:
        here = "the base" if self._pack is None else f"the pack of {self._pack.info.language}"
        if self._streams:
            raise PackError(
                f"This thread has a stream of the model open, which a call in '{language}' would wait for forever. "
                "Read the stream to its end, or close() it, or call from another thread."
            )
        if pack is not self._pack and (alone or pack is not None):
            raise PackError(
                f"The model is routed to {here}, and '{language}' needs other tensors. Leave that `routed` block first."
            )

    def _route(self, model: Any, pack: Pack | None) -> None:
        """Put a pack's tensors in place; all of them or, after an error, none."""
        if pack is None:
            return
        if hasattr(model.gpt, "ds_engine"):
            raise PackError(
                f"DeepSpeed's engine speaks with its own copies of the base's weights, so {pack.path} has no effect in "
                "it. Load the model without use_deepspeed."
            )
        tensors = self._tensors(model, pack)
        self._base = [_slot(model, name) for name in tensors]
        for slot, tensor in zip(self._base, tensors.values(), strict=True):
            slot.parameters[slot.key] = tensor

    def _release(self) -> None:
        self._thread = None
        for slot in self._base:
            now = slot.parameters[slot.key]
            if now.device != slot.parameter.device or now.dtype != slot.parameter.dtype:
                # moved meanwhile, with all others
                slot.parameter.data = slot.parameter.data.to(now.device, now.dtype)
            slot.parameters[slot.key] = slot.parameter
        self._base, self._pack, self._calls, self._streams = [], None, 0, 0
        self._lock.release()

    def _tensors(self, model: Any, pack: Pack) -> dict[str, Parameter]:
        """A pack's tensors, read on first use, where and of the type that the base's are now."""
        language = pack.info.language
        tensors = self._read.pop(language, None)
        if tensors is None:
            while self._read and len(self._read) >= self.resident:
                del self._read[next(iter(self._read))]
            tensors = _read(model, pack)
        tensors = {name: _beside(tensor, _slot(model, name).parameter) for name, tensor in tensors.items()}
        self._read[language] = tensors
        return tensors


def attach(model: Any, packs: Mapping[str, Pack], base_vocabulary: Vocabulary) -> None:
    """Let a model speak the languages of packs, in place of those of the packs that it had; none are fine.

    Args:
        model: `Xtts`, with the base's weights and tokenizer, `enable()` being called.
        packs: of its base, by their languages.
        base_vocabulary: of the base.

    Raises:
        PackError: a pack's texts become other tokens here than they were trained with; nothing is changed.
    """
    spoken = {language.split("-")[0]: pack.speaks(base_vocabulary) for language, pack in packs.items()}
    _detach(model)
    if not packs:
        return
    added = tuple(code for code in spoken if code not in model.config.languages)
    model.config.languages = [*model.config.languages, *added]
    ids = model.language_manager.name_to_id
    for code in spoken:
        ids.setdefault(code, max(ids.values(), default=-1) + 1)
    model.tokenizer.packed = spoken
    model.packs = Packs(dict(zip(spoken, packs.values(), strict=True)), added)


@contextmanager
def routed(model: Any, language: str) -> Iterator[None]:
    """Run something else than speech with the tensors of a language: its pack's, or the base's.

    The model is held as in a call. Calls of this thread inside use what is in place, so a sentence in one of the base's
    languages is spoken with the pack's tensors; a stream that is opened inside keeps them in place until it ends. A
    model without packs is left as it is.

    Args:
        model: `Xtts`.
        language: a code.

    Raises:
        PackError: the pack is damaged, or this thread holds the model for another language already.
    """
    packs = _packs_of(model)
    if packs is None:
        yield
        return
    with packs.held(model, language, alone=True):
        yield


def enable() -> None:
    """Let `Xtts.load_checkpoint` find the packs of a model folder, and speech use them; twice is harmless.

    Patched are `load_checkpoint`, `inference` and `inference_stream`; `synthesize` speaks through `inference`. What
    they do for a model without packs stays as it is.
    """
    from TTS.tts.models.xtts import Xtts

    if getattr(Xtts, _MARK, False):
        return
    load_checkpoint, inference, inference_stream = Xtts.load_checkpoint, Xtts.inference, Xtts.inference_stream

    @functools.wraps(load_checkpoint)
    def new_load_checkpoint(
        self: Any,
        config: Any,
        checkpoint_dir: Any = None,
        checkpoint_path: Any = None,
        vocab_path: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        packs = _packs_of(self)
        with packs.idle() if packs else nullcontext():
            load_checkpoint(self, config, checkpoint_dir, checkpoint_path, vocab_path, *args, **kwargs)
        _detach(self)
        weights = Path(checkpoint_dir, "model.pth") if checkpoint_path is None else Path(checkpoint_path)
        _attach_beside(self, weights, vocab_path)

    @functools.wraps(inference)
    def new_inference(self: Any, text: str, language: str, *args: Any, **kwargs: Any) -> Any:
        packs = _packs_of(self)
        if packs is None:
            return inference(self, text, language, *args, **kwargs)
        with packs.held(self, language):
            return inference(self, text, language, *args, **kwargs)

    @functools.wraps(inference_stream)
    def new_inference_stream(self: Any, text: str, language: str, *args: Any, **kwargs: Any) -> Any:
        packs = _packs_of(self)
        chunks = inference_stream(self, text, language, *args, **kwargs)
        return chunks if packs is None else packs.stream(self, language, chunks)

    Xtts.load_checkpoint = new_load_checkpoint
    Xtts.inference = new_inference
    Xtts.inference_stream = new_inference_stream
    setattr(Xtts, _MARK, True)


def _attach_beside(model: Any, weights: Path, vocab_path: Any) -> None:
    # Here and not above: it loads the trainer.
    from xtts_extend.pack.model_folder import PACKS, open_packs

    folder = weights.parent
    if weights.name != "model.pth":
        if (folder / PACKS).is_dir():
            logger.warning(
                " > the packs in %s are left out: they belong to model.pth, and %s was loaded.",
                folder / PACKS,
                weights.name,
            )
        return
    if packs := open_packs(folder):
        attach(model, packs, load_vocabulary(vocab_path or folder / "vocab.json", quiet=True))


def _packs_of(model: Any) -> Packs | None:
    return getattr(model, "packs", None)


def _detach(model: Any) -> None:
    packs = _packs_of(model)
    if packs is None:
        return
    with packs.idle():
        del model.packs
        model.tokenizer.packed = {}
        model.config.languages = [code for code in model.config.languages if code not in packs.added]
        for code in packs.added:
            model.language_manager.name_to_id.pop(code, None)


def _read(model: Any, pack: Pack) -> dict[str, Parameter]:
    """A pack's tensors, compared with their digests, in memory of their own.

    They are computed on the CPU in float32, as an export does, so that they are the same wherever the model is.
    """
    # a copy: what the pack keeps of its file leaves the memory with it
    pack = dataclasses.replace(pack)
    pack.require_intact()
    with torch.inference_mode(False), torch.no_grad():
        base = {name: _slot(model, name).parameter for name in map(matrix_of, pack.info.tensors)}
        tensors = pack.tensors({name: parameter.detach().cpu() for name, parameter in base.items()})
        return {
            name: Parameter(
                tensor.to(base[name].device, base[name].dtype, copy=True), requires_grad=base[name].requires_grad
            )
            for name, tensor in tensors.items()
        }


def _beside(tensor: Parameter, base: Parameter) -> Parameter:
    """The same parameter if it is where its base's is and of its type; else one that is."""
    if tensor.device == base.device and tensor.dtype == base.dtype:
        return tensor
    with torch.inference_mode(False):
        return Parameter(tensor.detach().to(base.device, base.dtype), requires_grad=base.requires_grad)


def _slot(model: Any, name: str) -> _Slot:
    """The place of a parameter.

    Raises:
        PackError: the model has none of this name: it was rebuilt after it was loaded.
    """
    path, _, key = name.rpartition(".")
    try:
        parameters = model.get_submodule(path)._parameters
        return _Slot(parameters, key, parameters[key])
    except (AttributeError, KeyError) as error:
        raise PackError(
            f"The model has no parameter {name}, which the pack changes: its modules were replaced (quantized, given "
            "adapters) after it was loaded. Speak with the model as `load_checkpoint` leaves it."
        ) from error
