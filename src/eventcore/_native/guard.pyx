"""Maps of files in which a fault (SIGBUS) is a flag, not the end of the process. Twin of `_pure.guard`.

The handler and its table are in guard.h; the table changes under the GIL only, so this module must not be declared
free of it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release
from cpython.exc cimport PyErr_CheckSignals
from cython cimport final
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from posix.mman cimport (
    MADV_DONTNEED, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap
)
from posix.stat cimport fstat, struct_stat

from eventcore._native.cursor cimport take_buffer

import os

cdef extern from "guard.h" nogil:
    int guard_install()
    bint guard_is_installed()
    int32_t guard_take()
    void guard_set(int32_t at, uintptr_t start, uintptr_t end)
    void guard_give_back(int32_t at)
    bint guard_is_broken(int32_t at)
    const uint32_t* guard_faults_of(int32_t at)
    uint64_t guard_faults()
    int guard_populate(char* start, size_t size, bint write)
    int guard_allocate(int fd, int64_t start, int64_t size)
    uintptr_t guard_page_size

cdef extern from "string.h" nogil:
    void* memmem(const void* area, size_t size, const void* sub, size_t sub_size)

cdef Py_ssize_t POPULATE_STEP = 1 << 18

__all__ = ["Mapping", "allocate", "faults", "is_guarded"]


cdef uint64_t fault_count() noexcept nogil:
    return guard_faults()


cdef int fail(int number) except -1:
    raise OSError(number, os.strerror(number))


cdef inline Py_ssize_t absolute(Py_ssize_t position, Py_ssize_t size) noexcept nogil:
    if position < 0:
        position += size
    return max(position, 0)


@final  # one that could not be made is never seen: a subclass's __del__ would see it
cdef class Mapping:
    """The first `size` bytes of a file as memory: shared, or `private`, where stores stay in this process.

    A buffer of bytes, writable if `write` or `private`. The descriptor is not kept. The memory lives until the last
    reference and the last buffer taken from it are gone. Where a page cannot be had, zeros appear in its place, what
    is stored there is lost, and `broken` is True from then on: look at it before you believe what you read, and
    before you acknowledge what you wrote.

    Raises OSError, and ValueError if the size is not above 0 or the file is shorter.
    """

    def __cinit__(self, int fd, Py_ssize_t size, bint write, bint private=False):
        cdef int number
        if size <= 0:
            raise ValueError(f"a map must have at least one byte, not {size}")
        self.size = size
        self.writable = write or private
        self.private = private
        number = guard_install()
        if number:
            fail(number)
        self.slot = guard_take()
        if self.slot < 0:
            fail(ENOMEM)
        self.faults = guard_faults_of(self.slot)
        self._map(fd)

    cdef int _map(self, int fd) except -1:
        cdef struct_stat status
        cdef void* base
        cdef int number = 0
        cdef int protection = PROT_READ | (PROT_WRITE if self.writable else 0)
        if fstat(fd, &status) != 0:
            fail(errno)
        if status.st_size < self.size:
            raise ValueError(f"cannot map {self.size} bytes of a file that has {status.st_size}")
        with nogil:
            base = mmap(NULL, self.size, protection, MAP_PRIVATE if self.private else MAP_SHARED, fd, 0)
            if base == MAP_FAILED:
                number = errno
        if number:
            fail(number)
        self.base = <char*>base
        guard_set(self.slot, <uintptr_t>base, <uintptr_t>base + <uintptr_t>self.size)
        return 0

    def __dealloc__(self):
        # In this order: an address that is free again may become somebody else's.
        if self.faults != NULL:  # it has a slot; where not even the arguments could be read, all fields are 0
            guard_give_back(self.slot)
        if self.base != NULL:
            munmap(self.base, self.size)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.size, not self.writable, flags)

    @property
    def broken(self):
        """Whether there was a fault in this map: some of its bytes are not the file's."""
        return guard_is_broken(self.slot)

    def find(self, sub, Py_ssize_t start, Py_ssize_t end):
        """The lowest position of `sub` inside `[start, end)`, -1 if there is none; like `bytes.find`."""
        cdef Py_buffer view
        cdef char* found = NULL
        start = absolute(start, self.size)
        end = min(absolute(end, self.size), self.size)
        take_buffer(sub, &view, PyBUF_SIMPLE)
        if start <= end and view.len == 0:
            found = self.base + start  # not every memmem finds nothing at all
        elif start <= end:
            with nogil:
                found = <char*>memmem(self.base + start, end - start, view.buf, view.len)
        PyBuffer_Release(&view)
        return -1 if found == NULL else found - self.base

    cdef int _check(self, Py_ssize_t start, Py_ssize_t end) except -1:
        if not 0 <= start <= end <= self.size:
            raise ValueError(f"no part of a map of {self.size} bytes: [{start}, {end})")
        return 0

    def populate(self, Py_ssize_t start, Py_ssize_t end):
        """Make the pages of `[start, end)` present, for stores where the map is writable: no fault awaits there then.

        `populated`, which its owner sets, moves along where there is no gap: another thread may look at it meanwhile.
        Raises OSError (EFAULT) where a page cannot be had. Does nothing where the system does not know how to.
        """
        cdef int number = 0
        cdef Py_ssize_t first, step
        self._check(start, end)
        first = start - start % <Py_ssize_t>guard_page_size
        with nogil:
            while first < end and not number:
                step = min(end - first, POPULATE_STEP)
                number = guard_populate(self.base + first, step, self.writable)
                if not number and first <= self.populated < first + step:
                    self.populated = first + step
                first += step
        if number:
            fail(number)

    def forget(self, Py_ssize_t start, Py_ssize_t end):
        """Let the whole pages inside `[start, end)` of a private map read as the file again; shared ones always do."""
        cdef Py_ssize_t page = <Py_ssize_t>guard_page_size
        cdef int number = 0
        self._check(start, end)
        start += (page - start % page) % page
        if end < self.size:
            end -= end % page
        if self.private and start < end:
            with nogil:
                if madvise(self.base + start, end - start, MADV_DONTNEED) != 0:
                    number = errno
            if number:
                fail(number)


def faults():
    """How many faults were absorbed in this process."""
    return guard_faults()


def is_guarded():
    """Whether a fault in a map is absorbed now: one was made, and nobody has replaced the handler since."""
    return bool(guard_is_installed())


def allocate(int fd, int64_t start, int64_t size):
    """Give `[start, start + size)` of the file real blocks by fallocate(2), making it longer if it ends before.

    Raises OSError; EOPNOTSUPP where the system or the file system has no such call, and nothing was written.
    """
    cdef int number = EINTR
    while number == EINTR:
        with nogil:
            number = guard_allocate(fd, start, size)
        PyErr_CheckSignals()
    if number:
        fail(number)
