"""Run each call to `Xtts` with the tensors of the language's pack, or with the base's tensors.

During a call, a pack's tensors replace the base's in the modules' parameter dicts. The modules themselves are not
replaced, because coqui's GPT shares them with its generation wrapper, which it rebuilds at every `eval()`. Afterward,
the original parameter objects are put back, so the base is neither recomputed nor copied.
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

#: Number of packs whose tensors stay in memory. Packs for the published model take up to 1.6 GB each.
RESIDENT = 2

#: Attribute that marks `Xtts` as already patched.
_MARK = "_xtts_extend_routed"


class _Slot(NamedTuple):
    """An entry in a module's parameter dict, and the parameter that is currently stored there."""

    parameters: dict[str, Any]
    key: str
    parameter: Parameter


class Packs:
    """The packs of a model, stored in the model's attribute `packs`.

    Each call, even in one of the base's languages, locks the model until the call ends, and calls from other threads
    wait. A stream locks the model from its first chunk until it is exhausted, closed or garbage-collected.

    Attributes:
        packs: Language → pack.
        added: Languages that the model did not list before.
        resident: Number of packs whose tensors stay in memory; the least recently used pack is dropped first.
    """

    def __init__(self, packs: Mapping[str, Pack], added: tuple[str, ...] = (), resident: int = RESIDENT) -> None:
        self.packs = dict(packs)
        self.added = added
        self.resident = resident
        # Language → tensors, the least recently used language first.
        self._read: dict[str, dict[str, Parameter]] = {}
        # Not an RLock, because a stream may be read to its end or garbage-collected in a different thread from the one
        # that started it.
        self._lock = threading.Lock()
        # The thread object is stored instead of its ident, because a later thread can get the same ident.
        self._thread: threading.Thread | None = None
        self._pack: Pack | None = None
        self._calls = self._streams = 0
        self._base: list[_Slot] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the packs without the lock and the tensors in memory, so that copies of a model share neither."""
        return type(self), (self.packs, self.added, self.resident)

    @contextmanager
    def hold(self, model: Any, language: str, *, exact: bool = False) -> Iterator[None]:
        """Lock the model while the tensors of a language are in place.

        Nested calls from the same thread use the same tensors; see `routed`.

        Args:
            model: The model that these packs belong to.
            language: Language of the call.
            exact: Whether to raise on a nested call for one of the base's languages while a pack's tensors are in
                place.

        Raises:
            PackError: The pack is damaged, the model cannot use its tensors, or this thread has locked the model for a
                different pack.
        """
        pack = self.packs.get(language.split("-")[0])
        if self._thread is threading.current_thread():
            self._require_nested(pack, language, exact)
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
        """Yield the chunks of a stream, keeping the model locked from the first chunk on."""
        with self.hold(model, language):
            first_thread = self._thread
            self._streams += 1
            try:
                with closing(chunks):
                    for chunk in chunks:
                        yield chunk
                        # Servers may read each chunk in a different thread of a thread pool.
                        self._thread = threading.current_thread()
            finally:
                # A `routed` block around the stream still holds the model, so the lock is given back to the block's
                # thread.
                if self._calls > 1:
                    self._streams -= 1
                    self._thread = first_thread

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Wait until no call is running, and lock the model; calls that start in the meantime wait.

        Raises:
            PackError: This thread has a stream or a `routed` block open.
        """
        if self._thread is threading.current_thread():
            raise PackError(
                "Cannot load different weights or packs while a stream or a `routed` block of the model is open in "
                "this thread. Close it first."
            )
        with self._lock:
            yield

    def _require_nested(self, pack: Pack | None, language: str, exact: bool) -> None:
        """Raise unless a nested call can use the tensors that are in place."""
        in_place = "the base" if self._pack is None else f"the pack for {self._pack.info.language}"
        if self._streams:
            raise PackError(
                f"A stream of the model is open in this thread, so a call in '{language}' would wait forever. "
                "Read the stream to its end, close() it, or call from a different thread."
            )
        if pack is not self._pack and (exact or pack is not None):
            raise PackError(
                f"The model is using the tensors of {in_place}, but '{language}' needs different ones. Exit the "
                "current `routed` block first."
            )

    def _route(self, model: Any, pack: Pack | None) -> None:
        """Put all of a pack's tensors in place, or none of them if an error occurs."""
        if pack is None:
            return
        if hasattr(model.gpt, "ds_engine"):
            raise PackError(
                f"DeepSpeed uses its own copies of the base's weights, so {pack.path} would have no effect. Load the "
                "model without use_deepspeed."
            )
        tensors = self._tensors(model, pack)
        self._base = [_slot(model, name) for name in tensors]
        for slot, tensor in zip(self._base, tensors.values(), strict=True):
            slot.parameters[slot.key] = tensor

    def _release(self) -> None:
        """Put the base's parameters back and unlock the model."""
        self._thread = None
        for slot in self._base:
            now = slot.parameters[slot.key]
            if now.device != slot.parameter.device or now.dtype != slot.parameter.dtype:
                # The model was moved to a different device or type during the call.
                slot.parameter.data = slot.parameter.data.to(now.device, now.dtype)
            slot.parameters[slot.key] = slot.parameter
        self._base, self._pack, self._calls, self._streams = [], None, 0, 0
        self._lock.release()

    def _tensors(self, model: Any, pack: Pack) -> dict[str, Parameter]:
        """Return a pack's tensors on the base's device and in the base's type, reading them on first use."""
        language = pack.info.language
        tensors = self._read.pop(language, None)
        if tensors is None:
            while self._read and len(self._read) >= self.resident:
                del self._read[next(iter(self._read))]
            tensors = _read_tensors(model, pack)
        tensors = {name: _match_base(tensor, _slot(model, name).parameter) for name, tensor in tensors.items()}
        self._read[language] = tensors
        return tensors


def attach(model: Any, packs: Mapping[str, Pack], base_vocabulary: Vocabulary) -> None:
    """Attach packs to a model so that it can speak their languages, and detach the packs it had before.

    Args:
        model: `Xtts` with the base's weights and tokenizer, loaded after `enable()`.
        packs: Language → pack for its base; may be empty.
        base_vocabulary: Vocabulary of the base.

    Raises:
        PackError: A pack's sample texts are not tokenized as they were in training. Nothing is changed.
    """
    spoken = {language.split("-")[0]: pack.packed_language(base_vocabulary) for language, pack in packs.items()}
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
    """Run a block of code with the tensors for a language: those of its pack, or else the base's.

    The model is locked as during a call. Calls from this thread inside the block use the same tensors, so a sentence in
    one of the base's languages is spoken with the pack's tensors. A stream opened inside the block keeps the tensors in
    place until the stream ends. Models without packs are unaffected.

    Args:
        model: `Xtts`.
        language: Code of the language.

    Raises:
        PackError: The pack is damaged, or this thread has already locked the model for different tensors.
    """
    packs = _packs_of(model)
    if packs is None:
        yield
        return
    with packs.hold(model, language, exact=True):
        yield


def enable() -> None:
    """Patch `Xtts` to load a model folder's packs and synthesize speech with them; further calls have no effect.

    This patches `load_checkpoint`, `inference` and `inference_stream`; `synthesize` calls `inference`. Models without
    packs behave as before.
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
        with packs.hold(self, language):
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
    """Attach the packs beside a `model.pth`; if a different file was loaded, warn that the packs are not used."""
    # Imported here because this module imports the trainer.
    from xtts_extend.pack.model_folder import PACKS, open_packs

    folder = weights.parent
    if weights.name != "model.pth":
        if (folder / PACKS).is_dir():
            logger.warning(
                " > The packs in %s are not used, because they belong to model.pth, but %s was loaded.",
                folder / PACKS,
                weights.name,
            )
        return
    if packs := open_packs(folder):
        attach(model, packs, load_vocabulary(vocab_path or folder / "vocab.json", quiet=True))


def _packs_of(model: Any) -> Packs | None:
    return getattr(model, "packs", None)


def _detach(model: Any) -> None:
    """Remove a model's packs and the languages they added."""
    packs = _packs_of(model)
    if packs is None:
        return
    with packs.idle():
        del model.packs
        model.tokenizer.packed = {}
        model.config.languages = [code for code in model.config.languages if code not in packs.added]
        for code in packs.added:
            model.language_manager.name_to_id.pop(code, None)


def _read_tensors(model: Any, pack: Pack) -> dict[str, Parameter]:
    """Return a pack's tensors, checked against their digests and copied from the file.

    They are computed on the CPU in float32, as during an export, so that they do not depend on the model's device.
    """
    # The pack is copied, so that the cached tensors of its file are freed on return.
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


def _match_base(tensor: Parameter, base: Parameter) -> Parameter:
    """Return a parameter on the base's device and in its type, or the same object if nothing has to change."""
    if tensor.device == base.device and tensor.dtype == base.dtype:
        return tensor
    with torch.inference_mode(False):
        return Parameter(tensor.detach().to(base.device, base.dtype), requires_grad=base.requires_grad)


def _slot(model: Any, name: str) -> _Slot:
    """Return the place of a parameter in its module.

    Raises:
        PackError: The model has no such parameter, because it was rebuilt after loading.
    """
    path, _, key = name.rpartition(".")
    try:
        parameters = model.get_submodule(path)._parameters
        return _Slot(parameters, key, parameters[key])
    except (AttributeError, KeyError) as error:
        raise PackError(
            f"The model has no parameter {name}, but the pack changes it. The model's modules were replaced after "
            "loading (by quantization or adapters, for example). Use the model as `load_checkpoint` loads it."
        ) from error
