"""What an append moves on, shared by those who own it and the kernel that does it. Twin of `_pure.marks`."""

from libc.stdint cimport INT64_MIN

__all__ = ["NOT_KNOWN", "End", "Entries", "Marks"]

NOT_KNOWN = INT64_MIN


cdef class End:
    """Where the content of a file ends."""


cdef class Entries:
    """How many entries an index has."""


cdef class Marks:
    """What a segment knows of its batches. See the twin."""

    def __cinit__(self):
        self.max_timestamp, self.first_timestamp = -1, INT64_MIN
