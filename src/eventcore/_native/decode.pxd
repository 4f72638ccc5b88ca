from eventcore._native.batch cimport Header
from eventcore._native.records cimport Area


# Appends the wanted records of an area to `out`; what was appended before it raises stays there.
cdef int read_area(Area* area, list out) except -1
cdef int verify_batch(const unsigned char* base, Py_ssize_t pos, const Header* header) except -1


# What the records lean on, of the 13 fields that `batch.read_header` gives.
cdef int take_fields(Header* header, object fields) except -1
