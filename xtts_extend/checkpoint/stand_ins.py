"""Objects that a checkpoint may contain besides tensors and plain values, and the plain value that replaces each.

With `weights_only=True`, torch rejects every function or class that is not registered by name. The names here are
registered with stand-ins that only store values, so nothing that a file names is imported or called.
"""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

#: Modules and builtins that have no use in a checkpoint except to run code.
_RUNS_CODE = {
    "codeop", "commands", "ctypes", "importlib", "marshal", "nt", "operator", "os", "pickle", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "webbrowser",
    "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "open", "setattr",
}  # fmt: skip
#: Names in these modules that do not run code.
_HARMLESS = {
    "operator.itemgetter", "os.stat_result", "os.terminal_size", "os.uname_result", "posix.stat_result",
    "posix.terminal_size", "posix.uname_result", "sys.flags", "sys.float_info", "sys.version_info",
}  # fmt: skip


class _Fields:
    """An object reduced to its attributes: `argparse.Namespace`, or one of coqui's configurations."""


class _OmegaConf:
    """A node of an omegaconf configuration: a value, or a dict or a list of nodes."""

    def plain(self) -> Any:
        """Return the plain values, with interpolations left as strings."""
        attributes = vars(self)
        return resolve_stand_ins(attributes.get("_content", attributes.get("_val")))


class _Zone(datetime.tzinfo):
    """The name of a time zone, without its rules."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def tzname(self, _: datetime.datetime | None) -> str:
        return self.name

    def utcoffset(self, _: datetime.datetime | None) -> None:
        return None

    dst = utcoffset


def _zone(name: str, *_: Any) -> _Zone:
    return _Zone(name)


def _getattr(*arguments: Any) -> Any:
    """Return the only attribute that harmless files look up (to restore a time zone); reject all others."""
    if arguments == (_Zone, "_unpickle"):
        return _zone
    raise pickle.UnpicklingError("Unsupported global: GLOBAL getattr")


class _Numpy:
    """A NumPy array or dtype, stored as its constructor arguments and its pickled state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def plain(self) -> Any:
        """Return an array as nested lists, or as bytes if it has no plain values; return a dtype as its name."""
        if not self.state or not isinstance(self.state[-1], (bytes, list)):
            return str(self.arguments[0])
        _, shape, dtype, is_fortran, data = self.state
        values = _plain_array(dtype, data)
        return values.reshape(shape, order="F" if is_fortran else "C").tolist() if values is not None else data


def _plain_array(dtype: _Numpy, data: Any) -> Any:
    """Return an array of numbers, strings or dates from its bytes, or None for records and objects."""
    name, byte_order = dtype.arguments[0], dtype.state[1]
    if name[0] in "mM" and isinstance(data, bytes):
        unit, count = dtype.state[-1][1][:2]
        return np.frombuffer(data, np.dtype(f"{name}[{count}{unit.decode()}]").newbyteorder(byte_order)).astype(str)
    if name[0] not in "biufcUS" or not isinstance(data, bytes):
        return None
    return np.frombuffer(data, np.dtype(name).newbyteorder(byte_order))


def _scalar(dtype: _Numpy, data: Any = None) -> Any:
    """Return a NumPy scalar as a Python number or string."""
    values = _plain_array(dtype, data)
    return data if values is None else values[0].item()


def _nothing() -> None:
    """Stand in for `typing.Any`."""


def _dict(*_: Any) -> dict[Any, Any]:
    """Return an empty dict in place of a `defaultdict`; its factory is dropped. The unpickler adds the items."""
    return {}


def _list(*_: Any) -> list[Any]:
    """Return an empty list for a `deque`, without its maximum length; the unpickler adds the items."""
    return []


def _struct_time(fields: tuple[int, ...], _: Any = None) -> tuple[int, ...]:
    return tuple(fields)


def _posix(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


#: Configuration classes from Python, and from all releases of coqui-tts and its Trainer, by module.
_WITH_FIELDS = {
    "coqpit": ("Coqpit",),
    "coqpit.coqpit": ("Coqpit",),
    "trainer.trainer": ("TrainerArgs", "TrainerConfig"),
    "trainer.config": ("TrainerArgs", "TrainerConfig"),
    "TTS.config.shared_configs": ("BaseAudioConfig", "BaseDatasetConfig", "BaseTrainingConfig"),
    "TTS.tts.configs.shared_configs": ("BaseTTSConfig", "CharactersConfig"),
    "TTS.tts.configs.xtts_config": ("XttsArgs", "XttsAudioConfig", "XttsConfig"),
    "TTS.tts.models.xtts": ("XttsArgs", "XttsAudioConfig"),
    "TTS.tts.layers.xtts.trainer.gpt_trainer": ("GPTArgs", "GPTTrainerConfig", "XttsAudioConfig"),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
}
_PLAIN = (bool, bytes, dict, float, frozenset, int, list, str, tuple)
_OMEGACONF = {
    "base": ("ContainerMetadata", "Metadata", "SCMode"),
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "nodes": ("AnyNode", "BooleanNode", "BytesNode", "FloatNode", "IntegerNode", "PathNode", "StringNode"),
}
#: NumPy scalar types found in configurations → Python types.
_NUMBERS = {
    **dict.fromkeys(("float16", "float32", "float64"), float),
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), int),
}
_DATES = (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone)

#: Stand-ins for the functions and classes that files may name; in a pair, the second item is the name in the file.
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_Fields, f"{module}.{name}") for module, names in _WITH_FIELDS.items() for name in names),
    *((kind, f"builtins.{kind.__name__}") for kind in _PLAIN),
    *((kind, f"datetime.{kind.__name__}") for kind in _DATES),
    (_Zone, "zoneinfo.ZoneInfo"),
    (_zone, "zoneinfo.ZoneInfo._unpickle"),
    (_getattr, "builtins.getattr"),
    *((_OmegaConf, f"omegaconf.{module}.{name}") for module, names in _OMEGACONF.items() for name in names),
    (_nothing, "typing.Any"),
    (str, "torch.torch_version.TorchVersion"),
    (_struct_time, "time.struct_time"),
    *((kind, f"numpy.{name}") for name, kind in _NUMBERS.items()),
    (_dict, "collections.defaultdict"),
    (_list, "collections.deque"),
    *(
        (_windows if name.endswith("WindowsPath") else _posix, f"{module}.{name}")
        # Python 3.13 moved them to pathlib._local.
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    ),
    (_Numpy, "numpy.dtype"),
    (_Numpy, "numpy.ndarray"),
    # NumPy 2 moved them to _core.
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Numpy, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def could_run_code(name: str) -> bool:
    """Return whether a name that torch rejected has no use except to run code.

    Args:
        name: The name, as given in torch's error.
    """
    return name.partition(".")[0] in _RUNS_CODE and name not in _HARMLESS


def resolve_stand_ins(value: Any) -> Any:
    """Return loaded content as dicts, lists, tuples, plain values and tensors only, without private attributes."""
    if isinstance(value, (_Numpy, _OmegaConf)):
        return value.plain()
    if isinstance(value, _Zone):
        return value.name
    if isinstance(value, (datetime.datetime, datetime.time)) and isinstance(value.tzinfo, _Zone):
        return f"{value.replace(tzinfo=None).isoformat()} {value.tzinfo.name}"
    if isinstance(value, _Fields):
        value = {key: item for key, item in vars(value).items() if not key.startswith("_")}
    if isinstance(value, dict):
        return {key: resolve_stand_ins(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "numel"):
        return type(value)([resolve_stand_ins(item) for item in value])
    return value
