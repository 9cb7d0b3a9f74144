"""Threads run in order of arrival; the test's measure detects a lock that does not keep the order."""

import collections
import signal
import threading
import time

import pytest

from trt_code.runners.turns import Turns
from trt_code.stress.under_load import in_threads

THREADS, PASSES = 6, 40


def most_overtaken(lock) -> int:
    """Return the largest number of passes of other threads that one pass waits for.

    All threads request the lock all the time. The work under the lock takes no CPU time, as if a GPU did it.
    """
    done, worst = 0, []

    def work(number: int) -> None:
        nonlocal done
        for _ in range(PASSES):
            before = done
            with lock:
                worst.append(done - before)
                time.sleep(1e-3)
                done += 1

    in_threads(THREADS, work)
    assert done == THREADS * PASSES
    return max(worst)


def test_nobody_waits_for_more_than_one_pass_of_every_other():
    # the pass that runs at the time of the request may end before the count is read
    assert most_overtaken(Turns()) <= THREADS


def test_overtaking_is_detected():
    class Newest(collections.deque):
        popleft = collections.deque.pop

    turns = Turns()
    turns._waiting = Newest()
    assert most_overtaken(turns) > 2 * THREADS


def test_one_at_a_time():
    turns, inside, most = Turns(), 0, []

    def work(number: int) -> None:
        nonlocal inside
        for _ in range(PASSES):
            with turns:
                inside += 1
                most.append(inside)
                time.sleep(1e-4)
                inside -= 1

    in_threads(THREADS, work)
    assert set(most) == {1}


def test_an_exception_inside_lets_the_next_in():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        raise ZeroDivisionError
    with turns:
        pass


def test_an_interrupted_thread_blocks_no_other():
    """An interrupt reaches the main thread while it waits; the turn passes to the next thread."""
    turns, got = Turns(), []

    def waits() -> None:
        with turns:
            got.append(True)

    def alarmed(*_: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, alarmed)
    held = threading.Event()
    free = threading.Event()

    def holds() -> None:
        with turns:
            held.set()
            free.wait(10)

    holder, behind = threading.Thread(target=holds), threading.Thread(target=waits)
    try:
        holder.start()
        held.wait(10)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt), turns:
            pass
    finally:
        signal.signal(signal.SIGALRM, old)
        behind.start()
        free.set()
        holder.join()
    behind.join(10)
    assert got == [True]
