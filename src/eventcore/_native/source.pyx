"""A buffer that is read while somebody may change it. Twin of `_pure.source`."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release
from cython cimport final, no_gc
from libc.stdint cimport int64_t, uintptr_t

from eventcore._native.cursor cimport take_buffer
from eventcore._native.guard cimport Mapping

from eventcore._native.tail import TRUNCATIONS as _TRUNCATIONS
from eventcore.errors import LogTruncated, MappingFault

__all__ = ["Source"]

cdef Py_ssize_t TRUNCATIONS = _TRUNCATIONS


@final
@no_gc  # what it holds refers to nothing; the collector would take the buffer from under whoever reads it
cdef class Source:
    """A buffer with batches in it, pinned, and what tells that its bytes no longer are what they were.

    `state` is the state page whose count of truncations must stay `truncations`; without one nobody is known to write.
    """

    def __init__(self, buf, state=None, int64_t truncations=0):
        if self.has_view:
            raise TypeError("a source has its buffer already")
        take_buffer(buf, &self.view, PyBUF_SIMPLE)
        self.has_view = True
        exporter = memoryview(buf).obj
        if isinstance(exporter, Mapping):
            self.mapping = exporter
        if state is not None:
            take_buffer(state, &self.state_view, PyBUF_SIMPLE)
            self.word = <const int64_t*>(<char*>self.state_view.buf + TRUNCATIONS)
            if self.state_view.len < TRUNCATIONS + 8 or <uintptr_t>self.word % 8:
                PyBuffer_Release(&self.state_view)  # the object may live on: it must not look there
                raise ValueError("this is no state page")
            self.has_state, self.truncations = True, truncations

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)
        if self.has_state:
            PyBuffer_Release(&self.state_view)

    def __len__(self):
        return self.view.len

    def check(self):
        """Whether what was read until now can be believed. Raises LogTruncated or MappingFault if not."""
        if holds(self):
            return
        if self.has_state and load_word(self.word) != self.truncations:
            raise LogTruncated("the log was truncated while it was read")
        raise MappingFault("a page of the file cannot be had")
