"""Convert values from a browser into names, paths, texts and numbers that are safe to use, or raise an error."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar, overload

from xtts_extend.errors import ConfigError

#: Longest name, in characters and in UTF-8 bytes. File systems allow 255 bytes, and we append suffixes.
LONGEST_NAME = 100
LONGEST_NAME_BYTES = 200
_PUNCTUATION = " ._-()+"
#: Names that Windows reserves for devices, with or without a file extension.
_DEVICES = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{number}" for port in ("COM", "LPT") for number in range(10)}
#: How many characters of a rejected value an error message quotes.
_QUOTED = 40
#: Longest string that is read as a number; nobody types a longer one.
_LONGEST_NUMBER = 40
#: A model on the Hugging Face Hub: NAME or OWNER/NAME.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", re.ASCII)


class Named(Protocol):
    """An item of a listing, such as a path or a job."""

    @property
    def name(self) -> str:
        """The name that users see."""


Item = TypeVar("Item", bound=str | Named)


def checked_name(name: object) -> str:
    """Return a name unchanged if it can name a file or folder on every operating system.

    >>> checked_name("አማርኛ 2 (draft).csv")
    'አማርኛ 2 (draft).csv'

    Raises:
        ConfigError: It is not a string, is empty or too long, or is not a valid file name on every system.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"Expected a name, got {_quote(name)}. Type a name.")
    if problem := _problem(name):
        raise ConfigError(
            f"The name {_quote(name)} {problem}. Use up to {LONGEST_NAME} letters, digits, spaces and . _ - ( ) +, and "
            "start with a letter or a digit."
        )
    return name


def _problem(name: str) -> str:
    """Return what is wrong with a name, or an empty string."""
    if len(name) > LONGEST_NAME:
        return f"has {len(name):,} characters, but at most {LONGEST_NAME} are allowed"
    for character in name:
        category = unicodedata.category(character)
        if not (category[0] in "LM" or category == "Nd" or character in _PUNCTUATION):
            return f"contains the character {character!a}, which is not allowed in names"
    if (size := len(name.encode("utf-8"))) > LONGEST_NAME_BYTES:
        return f"takes {size:,} bytes in UTF-8, but at most {LONGEST_NAME_BYTES} are allowed"
    if name[0] in ".- ":
        return "begins with a dot, a dash or a space"
    if name[-1] in ". ":
        return "ends with a dot or a space"
    if ".." in name:
        return "contains two dots in a row"
    if name.split(".")[0].rstrip(" ").upper() in _DEVICES:
        return "is a reserved device name on Windows"
    return ""


def pick(name: object, choices: Iterable[Item]) -> Item:
    """Return the item with this name from a listing. A browser can send names that were never shown.

    Raises:
        ConfigError: No item has this name.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("Nothing is selected. Choose an item from the list.")
    for item in choices:
        if name == (item if isinstance(item, str) else item.name):
            return item
    raise ConfigError(f"{_quote(name)} is not in the list; it may have been removed. Reload the page and choose again.")


def inside(folder: Path, name: object) -> Path:
    """Return the resolved path of a name in a folder, whether or not the file exists.

    Raises:
        ConfigError: `checked_name` rejects the name, or it is a symbolic link that leads out of the folder.
    """
    checked = checked_name(name)
    try:
        root = folder.resolve()
        path = (root / checked).resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"The link {folder / checked} cannot be followed ({error}). Remove it.") from error
    if root not in path.parents:
        raise ConfigError(
            f"{folder / checked} is a link to {path}, which is outside {root}. Copy the file into the folder."
        )
    return path


def model_source(project: Path, name: object) -> str:
    """Return a model for transformers: its name on the Hugging Face Hub, or the absolute path of a project's folder.

    The command line also accepts functions (`module:function`), which would let a browser choose code to run here.

    Args:
        project: The project's folder.
        name: A name such as "facebook/mms-1b-all", or a folder's path relative to the project.

    Raises:
        ConfigError: It is neither, or names a folder outside the project.
    """
    if isinstance(name, str) and name and "\0" not in name:
        try:
            root = project.resolve()
            folder = (root / name).resolve()
            if folder.is_dir() and root in folder.parents:
                return str(folder)
            # transformers also looks for a folder with this name in the directory that the page was started in.
            is_file = folder.exists() or Path(name).exists()
            if _MODEL.fullmatch(name) and ".." not in name and not is_file:
                return name
        except (OSError, RuntimeError, ValueError):
            pass
    raise ConfigError(
        f"Expected the name of a transformers model, such as facebook/mms-1b-all, or a folder in the project, got "
        f"{_quote(name)}. Functions (module:function) are accepted only on the command line."
    )


def checked_text(text: object, limit: int) -> str:
    """Return free text, with its line endings converted to newlines, if it can be a command argument.

    Pass it as `--flag=TEXT`, because it may begin with a dash.

    Args:
        text: The text as the browser sent it.
        limit: Maximum length in characters.

    Raises:
        ConfigError: It is not a string, is too long, or contains control characters other than newline and tab.
    """
    if not isinstance(text, str):
        raise ConfigError(f"Expected text, got {_quote(text)}.")
    if len(text) > limit:
        raise ConfigError(f"The text has {len(text):,} characters, but at most {limit:,} are allowed. Shorten it.")
    lines = text.replace("\r\n", "\n")
    for character in lines:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise ConfigError(
                f"The text contains the control character {character!a}. Remove it, or type the text again."
            )
    return lines


@overload
def checked_number(value: object, least: int, most: int) -> int: ...
@overload
def checked_number(value: object, least: float, most: float) -> float: ...
def checked_number(value: object, least: float, most: float) -> float:
    """Return a number, which may be given as a string, if it is within a range; an int if both limits are ints.

    >>> checked_number(8.0, 1, 64), checked_number("1e-5", 0.0, 1.0)
    (8, 1e-05)

    Raises:
        ConfigError: It is not a finite number, not a whole number where one is required, or out of range.
    """
    whole = isinstance(least, int) and isinstance(most, int)
    number = _number(value)
    if number is None or not least <= number <= most or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"Expected {kind} from {least:,} to {most:,}, got {_quote(value)}.")
    return int(number) if whole else float(number)


def _number(value: object) -> int | float | None:
    """Return the value of a number field, or None if it is not a finite number."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _quote(value: object) -> str:
    """Return a browser's value for a message, shortened and without characters that affect how a line is displayed."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**_LONGEST_NUMBER):
        return str(value)
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return repr(value if len(value) <= _QUOTED else value[:_QUOTED] + "…")
