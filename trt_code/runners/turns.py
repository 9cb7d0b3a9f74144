"""A fair lock: threads get it in the order in which they ask.

``threading.Lock`` has no order: the thread that releases it mostly takes it again before a waiting thread
wakes up. With eight threads on one runner some then wait ten times as long as others.
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
            turn.acquire()  # blocks until the previous thread releases it
        except BaseException:
            # interrupted while waiting: leave the queue, so that no thread passes the lock here
            with self._books:
                waits = turn in self._waiting
                if waits:
                    self._waiting.remove(turn)
            if not waits:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._books:
            if self._waiting:  # the lock stays taken, so that no other thread gets in first
                self._waiting.popleft().release()
            else:
                self._taken = False
