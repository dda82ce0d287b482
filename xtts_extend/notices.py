"""What is said once in a process, however often it is met."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger("trainer")


@cache
def warn_once(message: str) -> None:
    """Log a warning the first time that it is given."""
    logger.warning(" > %s", message)
