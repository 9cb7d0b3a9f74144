"""Turns of threads at something that one of them can use at a time, in the order in which they ask.

``threading.Lock`` does not say who is next: the thread that lets go of it mostly has it again before
those that wait are awake. With eight threads on one runner some then wait ten times as long as others.
"""

import collections
import threading


class Turns:
    """A lock that goes to the thread that has waited longest. A context manager; not re-entrant."""

    def __init__(self) -> None:
        self._books = threading.Lock()
        self._taken = False
        self._waiting: collections.deque[threading.Lock] = collections.deque()

    def __enter__(self) -> None:
        with self._books:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()  # until the thread before lets go of it
        except BaseException:
            # an interrupt while it waits: nobody may hand the turn to it any more
            with self._books:
                waits = turn in self._waiting
                if waits:
                    self._waiting.remove(turn)
            if not waits:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._books:
            if self._waiting:  # it stays taken: nobody slips in before the next
                self._waiting.popleft().release()
            else:
                self._taken = False
