"""Warnings that are logged only once per process."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger("trainer")


@cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged the same message before."""
    logger.warning(" > %s", message)
