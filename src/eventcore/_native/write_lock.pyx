"""Who may change a log, and what was begun and not finished. Twin of `_pure.write_lock`, which says what it is about.

No method here runs a line of Python after it has changed something, so that no signal handler comes in between.
"""

from cpython.pythread cimport PyThread_get_thread_ident
from threading import RLock

__all__ = ["Whole", "WriteLock"]


cdef class Whole:
    """Around what has to be done as a whole. See the twin."""

    cdef readonly int unfinished
    cdef tuple harmless

    def __init__(self, tuple harmless):
        self.harmless = harmless

    def __enter__(self):
        self.unfinished += 1

    def __exit__(self, kind, error, trace):
        if kind is None or issubclass(kind, self.harmless):
            self.unfinished -= 1


cdef class WriteLock:
    """A re-entrant lock. See the twin."""

    cdef readonly Whole whole, attempt
    cdef object lock, appender
    cdef int depth
    cdef long owner

    def __init__(self, tuple harmless):
        self.whole, self.attempt = Whole(harmless), Whole((Exception,))
        self.lock, self.appender = RLock(), None
        self.depth = self.owner = 0

    @property
    def unfinished(self):
        """How many changes were begun and have not ended."""
        return self.whole.unfinished + self.attempt.unfinished

    def attach(self, object appender):
        """The appender declines from now on while somebody holds the lock, and where something is unfinished."""
        self.appender = appender
        if self.depth:
            appender.pause()

    def held(self):
        """Whether this thread has it."""
        return self.depth > 0 and self.owner == PyThread_get_thread_ident()

    def __enter__(self):
        self.lock.acquire()
        self.depth += 1
        if self.depth == 1:
            self.owner = PyThread_get_thread_ident()
            if self.appender is not None:
                self.appender.pause()

    def __exit__(self, kind, error, trace):
        self.depth -= 1
        if self.depth == 0 and self.appender is not None and not self.whole.unfinished + self.attempt.unfinished:
            self.appender.resume()
        self.lock.release()
