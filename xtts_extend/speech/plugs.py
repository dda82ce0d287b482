"""Functions of the user that are named on the command line as `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtts_extend.errors import ConfigError


def is_plug(name: str) -> bool:
    """Return whether a name is `module:function`, and not a folder.

    >>> [is_plug(name) for name in ("my_asr:run", "tools.asr:run", "openai/whisper-small", "C:\\\\models\\\\asr")]
    [True, True, False, False]
    """
    module, colon, function = name.partition(":")
    is_reference = bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))
    return is_reference and not Path(name).exists()


def load_plug(flag: str, name: str) -> Callable[..., Any]:
    """Import a function. The current folder comes first on the import path.

    Args:
        flag: Flag that the name was passed with, for messages.
        name: `module:function`.

    Returns:
        The function, wrapped so that an exception in it becomes a ConfigError.

    Raises:
        ConfigError: The module does not exist or cannot be imported, or it has no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # The module may be newer than Python's list of the folder's files.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{flag} {name}: there is no module {error.name!r} in {folder} or among the installed packages, and no "
                "folder with this name. Run the command in the folder that contains the module, or install it."
            ) from error
        raise ConfigError(f"{flag} {name}: the module needs {error.name!r}, which is not installed.") from error
    # The module is the user's code, which can raise anything.
    except Exception as error:
        raise _failure(flag, name, "cannot be imported", error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "does not define it" if function is None else f"defines it as {type(function).__name__}"
        raise ConfigError(
            f"{flag} {name}: expected a function {function_name!r} in {module_name}, but {module.__file__} {found}. "
            "Pass module:function with the name of a function."
        )

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise _failure(flag, name, "failed", error) from error

    return call


def plug_digest(name: str) -> str:
    """Return a digest of a function's name and its module's file, for results that depend on the function.

    Args:
        name: `module:function`. The module has been imported.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=16)
    file = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
    if file is not None:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _failure(flag: str, name: str, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{flag} {name} {what}: {type(error).__name__}: {error}. Fix the module. --debug shows the line."
    )
