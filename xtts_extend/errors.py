"""The package's errors and their exit codes: 2 if the user can fix the error, 1 if the machine or a check failed.

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class XttsExtendError(Exception):
    """Base class of this package's errors. The command line prints the message and exits with `exit_code`."""

    exit_code = 2


class CheckpointError(XttsExtendError):
    """Error for a file that is not a checkpoint, is damaged, or is not suitable for the requested use."""


class DamagedError(CheckpointError):
    """Error for a checkpoint that is truncated, empty or corrupted."""


class VocabularyError(XttsExtendError):
    """Error for a vocabulary that cannot be read or does not extend the expected one."""


class LanguageError(XttsExtendError):
    """Error for a language code that is malformed, unknown or has no tag in the vocabulary."""


class PackError(XttsExtendError):
    """Error for a language pack that is damaged, does not match its base model, or cannot be made from a run."""


class DataError(XttsExtendError):
    """Error for a manifest or recordings that cannot be used."""


class ConfigError(XttsExtendError):
    """Error for flags or configuration values that contradict each other or the files."""


class InstallationError(XttsExtendError):
    """Error for installed packages that are known not to work together."""


class MachineError(XttsExtendError):
    """Error for a machine that does not have enough memory, disk space or other resources."""

    exit_code = 1


class DiskFullError(MachineError):
    """Error for a file that could not be written because the disk is full."""


class CheckFailed(XttsExtendError):
    """Error for a check that failed."""

    exit_code = 1


def message_of(error: Exception) -> str:
    """Return an error's message. For exceptions from outside this package, it starts with the class name."""
    kind = type(error)
    if not isinstance(error, XttsExtendError):
        return f"{kind.__name__}: {error}"
    # When a data loader worker fails, torch raises an error whose message is the worker's entire traceback.
    return str(error).rsplit(f"{kind.__module__}.{kind.__qualname__}: ", 1)[-1].strip()


@contextmanager
def report_errors(*, debug: bool) -> Iterator[None]:
    """Print an error of this package as one message to standard error and exit with its code, or with 130 after Ctrl-C.

    Args:
        debug: Re-raise errors, so that Python prints the traceback.
    """
    logging.getLogger("trainer").setLevel(logging.INFO)
    # Each time the program starts, this logger warns about token ids that XTTS does not use.
    logging.getLogger("transformers.configuration_utils").setLevel(logging.ERROR)
    try:
        yield
    except XttsExtendError as error:
        if debug:
            raise
        print(f"error: {message_of(error)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
