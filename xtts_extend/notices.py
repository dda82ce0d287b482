"""Warnings that are logged only once per process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("trainer")

_logged: set[str] = set()
_collecting: list[list[str]] = []


def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged the same message before."""
    for messages in _collecting:
        messages.append(message)
    if message not in _logged:
        _logged.add(message)
        logger.warning(" > %s", message)


@contextmanager
def collect_notices() -> Iterator[list[str]]:
    """Yield a list of the messages that are passed to `warn_once` in the block, whether or not they are logged.

    >>> with collect_notices() as messages:
    ...     warn_once("The disk is almost full.")
    >>> messages
    ['The disk is almost full.']
    """
    messages: list[str] = []
    _collecting.append(messages)
    try:
        yield messages
    finally:
        _collecting.remove(messages)
