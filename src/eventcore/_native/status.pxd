# How kernels without the GIL say what is wrong, and the one function that turns it into an exception.

from libc.stdint cimport int64_t


cdef enum Status:
    OK = 0           # the first five are public: `batch.scan` returns them
    ENDED = 1
    TRUNCATED = 2
    CORRUPT = 3
    UNSUPPORTED = 4
    BAD_CRC = 5      # CORRUPT, known to be of the batch at offset `first`


cdef struct Fault:
    Status status
    Py_ssize_t position
    const char* what     # a str.format text: {0} is `first`, {1} is `second`
    int64_t first
    int64_t second


cdef inline Status blame(
    Fault* fault, Status status, Py_ssize_t position, const char* what, int64_t first, int64_t second
) noexcept nogil:
    fault.status = status
    fault.position = position
    fault.what = what
    fault.first = first
    fault.second = second
    return status


cdef inline int raise_fault(const Fault* fault) except -1:
    from eventcore.errors import CorruptRecord, Truncated, UnsupportedFormat

    text = fault.what.decode("ascii").format(fault.first, fault.second)
    if fault.status == BAD_CRC:
        raise CorruptRecord(text, position=fault.position, offset=fault.first)
    if fault.status == CORRUPT:
        raise CorruptRecord(text, position=fault.position)
    if fault.status == UNSUPPORTED:
        raise UnsupportedFormat(text, position=fault.position)
    raise Truncated(text, position=fault.position)
