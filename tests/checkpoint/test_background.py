"""Writing checkpoints in the background."""

import threading
import time

import pytest

from xtts_extend.checkpoint.background import BackgroundWriter


def writer_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_one_write_at_a_time_in_a_thread_that_ends_with_it():
    """A thread that stayed would keep its team of OpenMP threads and slow down every later step."""
    writer, written = BackgroundWriter(), []
    may_finish = threading.Event()
    writer.submit(lambda: (may_finish.wait(10), written.append(1)))
    assert writer_threads()
    may_finish.set()
    writer.submit(written.append, 2)
    writer.wait()
    assert written == [1, 2]
    deadline = time.monotonic() + 10
    while writer_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer_threads() == []


def test_the_next_call_raises_the_error_of_a_write():
    writer = BackgroundWriter()
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    writer.check()
