"""Pause garbage collection while many objects that stay are created."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection in a block or, as a decorator, in a function.

    Creating hundreds of thousands of objects makes Python search all objects for garbage again and again, which takes
    as long as creating them and frees nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
