"""What can go wrong, and the exit code of each: 2 when the user can mend it, 1 when the machine or a check failed.

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class XttsExtendError(Exception):
    """Base of all errors of this package; the command line prints its message and exits with `exit_code`."""

    exit_code = 2


class CheckpointError(XttsExtendError):
    """A file is not a checkpoint, is damaged, or does not fit what it is used for."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was written: truncated, empty, or with other bytes."""


class VocabularyError(XttsExtendError):
    """A vocabulary cannot be read, or does not extend the one that it should extend."""


class LanguageError(XttsExtendError):
    """A language code is malformed, unknown, or has no tag in the vocabulary."""


class PackError(XttsExtendError):
    """A language pack is damaged, does not fit its base, or cannot be made of a run."""


class DataError(XttsExtendError):
    """A manifest or its recordings cannot be used."""


class ConfigError(XttsExtendError):
    """Flags or configuration values contradict each other or the files."""


class InstallationError(XttsExtendError):
    """Installed packages are known not to work together."""


class MachineError(XttsExtendError):
    """Memory, disk or another resource of the machine does not suffice."""

    exit_code = 1


class DiskFullError(MachineError):
    """A file could not be written because the disk is full."""


class CheckFailed(XttsExtendError):
    """A promise was checked and does not hold."""

    exit_code = 1


@contextmanager
def report_errors(*, debug: bool) -> Iterator[None]:
    """Print the package's errors as one message on standard error and exit with their code; 130 after Ctrl-C.

    Args:
        debug: let errors through with their traceback.
    """
    logging.getLogger("trainer").setLevel(logging.INFO)
    # it warns at every start about token ids that XTTS does not use
    logging.getLogger("transformers.configuration_utils").setLevel(logging.ERROR)
    try:
        yield
    except XttsExtendError as error:
        if debug:
            raise
        kind = type(error)
        # of an error in a loader's worker torch makes one whose message is the whole traceback
        message = str(error).rsplit(f"{kind.__module__}.{kind.__qualname__}: ", 1)[-1].strip()
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
