"""The thread that does what may block: its jobs may hang or fail, whoever puts them goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edge_bdl_firmware import background
from edge_bdl_firmware.background import Background

LONG_S = 30.0  # for what is awaited; no test is about how long it takes


@pytest.fixture
def worker() -> Iterator[Background]:
    started = Background("test")
    yield started
    started.finish(LONG_S)


class Hanging:
    """A job that hangs until it is let go."""

    def __init__(self) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.let_go.wait(LONG_S)


def test_jobs_are_done_in_their_order(worker: Background) -> None:
    done: list[int] = []
    for number in range(50):
        assert worker.put(lambda number=number: done.append(number))  # type: ignore[misc]
    worker.finish(LONG_S)
    assert done == list(range(50))


def test_a_job_that_hangs_shows_and_then_no_more(worker: Background) -> None:
    assert worker.busy_s() == 0.0
    hanging, after = Hanging(), threading.Event()
    worker.put(hanging)
    assert hanging.began.wait(LONG_S)
    first = worker.busy_s()
    while worker.busy_s() <= first:
        pass
    worker.put(after.set)
    assert not after.is_set()
    hanging.let_go.set()
    assert after.wait(LONG_S)
    worker.finish(LONG_S)
    assert worker.busy_s() == 0.0


def test_where_too_many_jobs_wait_more_are_refused_and_nobody_waits(worker: Background) -> None:
    hanging, done = Hanging(), threading.Semaphore(0)
    worker.put(hanging)
    assert hanging.began.wait(LONG_S)
    taken = [worker.put(done.release) for _ in range(background._MOST_WAITING + 10)]
    assert taken == [True] * background._MOST_WAITING + [False] * 10
    hanging.let_go.set()
    for _ in range(background._MOST_WAITING):
        assert done.acquire(timeout=LONG_S)
    assert worker.put(done.release)


@pytest.mark.parametrize("error", [OSError("broken pipe"), ValueError("closed"), RuntimeError("bug"), MemoryError()])
def test_a_job_that_fails_does_not_keep_the_thread_from_the_next(error: Exception, worker: Background) -> None:
    """A log that nobody reads must not end the thread that keeps a latched STOP."""

    def fail() -> None:
        raise error

    done = threading.Event()
    worker.put(fail)
    worker.put(done.set)
    assert done.wait(LONG_S)
    worker.finish(LONG_S)
    assert worker.busy_s() == 0.0


def test_finishing_gives_up_on_a_job_that_hangs(worker: Background) -> None:
    hanging = Hanging()
    worker.put(hanging)
    assert hanging.began.wait(LONG_S)
    worker.finish(0.01)
    assert worker.busy_s() > 0.0
    hanging.let_go.set()


def test_finishing_gives_up_also_where_too_many_jobs_wait(worker: Background) -> None:
    hanging = Hanging()
    worker.put(hanging)
    assert hanging.began.wait(LONG_S)
    while worker.put(hanging):
        pass
    worker.finish(0.01)
    hanging.let_go.set()


def test_the_thread_does_not_keep_the_process_alive(worker: Background) -> None:
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "test")
