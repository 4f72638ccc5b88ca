"""Records one by one, out of batches that were checked whole before the first of their records is handed out.

Twin of `_pure.rows`. A batch is parsed into slots, then each step makes one object of one slot: no list of them exists,
so that what the caller drops is what the next step is made of, and both stay in the processor's first cache.

Bytes may change under a reader: a truncation zeroes them in place. So everything copied from a `Source` is believed
only if afterwards the log still was not truncated, its map not broken, and the batch still the same one. Slots are
bounds into a pinned buffer that were right once; so nothing outside of it is ever touched.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_New
from libc.stdint cimport UINT32_MAX, int32_t, int64_t, uint32_t

from eventcore._native.batch cimport (
    CRC_AT, HEADER_BYTES, LENGTH_AT, PREFIX_BYTES, UNLOCK_SIZE, Header, check_crc, read_batch
)
from eventcore._native.cursor cimport Cursor, checked_range, load_be32
from eventcore._native.decode cimport take_fields
from eventcore._native.records cimport LEAST_RECORD_BODY, Area, open_area, read_bytes, read_length
from eventcore._native.slots cimport Slot, fill_slots
from eventcore._native.source cimport Source, holds
from eventcore._native.status cimport CORRUPT, OK, Fault, Status, blame, raise_fault

from eventcore.errors import LogTruncated
from eventcore.types import Record as _Record

cdef extern from "Python.h":
    PyObject* new_int "PyLong_FromLongLong"(long long)
    PyObject* share "Py_NewRef"(object)
    void put_item "PyTuple_SET_ITEM"(object, Py_ssize_t, PyObject*)
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)

cdef extern from "record.h":
    object make_record(
        PyTypeObject*, PyObject* offset, PyObject* timestamp, PyObject* key, PyObject* value, PyObject* headers
    )

cdef extern from "watch.h":
    PyObject* copied_bytes(const unsigned char* data, Py_ssize_t size)
    object bytes_of "copied_bytes"(const unsigned char* data, Py_ssize_t size)

__all__ = [
    "FIELDS",
    "SHAPE_LAZY",
    "SHAPE_RECORD",
    "SHAPE_TUPLE",
    "SHAPE_VALUE",
    "LazyRecord",
    "Rows",
    "decode_rows",
    "read_rows",
]

cdef enum:
    RECORD, LAZY, TUPLE, VALUE
    FIELD_COUNT = 5

SHAPE_RECORD, SHAPE_LAZY, SHAPE_TUPLE, SHAPE_VALUE = RECORD, LAZY, TUPLE, VALUE
FIELDS = ("offset", "timestamp", "key", "value", "headers")

cdef type Record = _Record


cdef struct Place:
    # A batch that was right once, and what tells it from any other that might stand there later; or a bare area.
    const unsigned char* base
    bint is_batch
    uint32_t length
    uint32_t crc


cdef inline bint is_same(const Place* place) noexcept nogil:
    return not place.is_batch or (
        <uint32_t>load_be32(place.base + CRC_AT) == place.crc
        and <uint32_t>load_be32(place.base + LENGTH_AT) == place.length
    )


cdef int refuse_copy(Source source) except -1:
    if source is None:
        raise TypeError("this was not made by a kernel")
    source.check()
    raise LogTruncated("the log was truncated while it was read")


cdef inline int check_copy(Source source, const Place* place) except -1:
    # Whether what was just copied can be believed.
    return 0 if source is not None and holds(source) and is_same(place) else refuse_copy(source)


cdef tuple read_headers(const unsigned char* base, const Slot* slot):
    # The bytes may be others than those that were parsed: bounds are checked anew, and the caller checks the copy.
    cdef Cursor c = Cursor(base, slot.headers_position, slot.end)
    cdef int64_t position = 0, length = 0
    cdef Fault fault
    cdef list headers = []
    for _ in range(slot.header_count):
        if read_length(&c, b"a header key of length {0} where {1} bytes are left", 0, &length, &fault) != OK:
            raise_fault(&fault)
        key = PyUnicode_DecodeUTF8(<const char*>base + c.pos, length, b"replace")
        c.pos += length
        if read_bytes(&c, b"a header value of length {0} where {1} bytes are left", &position, &length, &fault) != OK:
            raise_fault(&fault)
        headers.append((key, None if length < 0 else bytes_of(base + position, length)))
    return tuple(headers)


cdef tuple checked_headers(Source source, const Place* place, const Slot* slot):
    if not slot.header_count:
        return ()
    try:
        return read_headers(place.base, slot)
    finally:
        check_copy(source, place)


@cython.final
@cython.freelist(1024)
@cython.no_gc
cdef class LazyRecord:
    """A record that decodes key, value and headers when they are asked for. It compares, hashes and prints as a Record.

    It pins the bytes it lies in: it stays valid whatever happens to the partition, with one exception. A truncation
    changes the bytes; a key, value or header that is asked for after it raises LogTruncated. `record()` gives what does
    not depend on the log any more.
    """

    cdef Source source
    cdef Place place
    cdef Slot slot

    def __init__(self, *args, **kwargs):
        raise TypeError("records come from a partition; make a Record")

    @property
    def offset(self):
        """The offset."""
        return self.slot.offset

    @property
    def timestamp(self):
        """The timestamp, ms since the epoch."""
        return self.slot.timestamp

    cdef object part(self, uint32_t position, int32_t length):
        cdef object found = None if length < 0 else bytes_of(self.place.base + position, length)
        check_copy(self.source, &self.place)
        return found

    @property
    def key(self):
        """The key."""
        return self.part(self.slot.key_position, self.slot.key_length)

    @property
    def value(self):
        """The value."""
        return self.part(self.slot.value_position, self.slot.value_length)

    @property
    def headers(self):
        """The headers."""
        return checked_headers(self.source, &self.place, &self.slot)

    def record(self):
        """The same as a plain Record."""
        return Record(self.slot.offset, self.slot.timestamp, self.key, self.value, self.headers)

    def __eq__(self, other):
        return self.record() == (other.record() if isinstance(other, LazyRecord) else other)

    def __hash__(self):
        return hash(self.record())

    def __repr__(self):
        return "Lazy" + repr(self.record())

    def __reduce__(self):
        raise TypeError("a lazy record lies in its log; take record()")


@cython.final
@cython.no_gc
cdef class Rows:
    """An iterator over the records of whole batches, from `read_rows` or `decode_rows`.

    `position` is where the next batch starts. It ends early, without an error, before a batch that has an attribute of
    the stop mask, begins at or above the last offset, or is not right: who reads on from there is told what is wrong.
    """

    cdef Source source
    cdef readonly Py_ssize_t position
    cdef Py_ssize_t end
    cdef int64_t min_offset
    cdef int64_t max_offset
    cdef int stop_mask
    cdef bint verify
    cdef bint busy
    cdef int shape
    cdef int fields[FIELD_COUNT]
    cdef int field_count
    cdef type record
    cdef Place place
    cdef Slot* slots
    cdef Py_ssize_t room
    cdef Py_ssize_t count
    cdef Py_ssize_t next
    cdef int64_t shared
    cdef object shared_timestamp

    def __init__(self, *args, **kwargs):
        raise TypeError("rows come from read_rows or decode_rows")

    def __dealloc__(self):
        PyMem_Free(self.slots)

    def __iter__(self):
        return self

    def __next__(self):
        if self.busy:
            raise ValueError("these rows are being read already")
        self.busy = True
        try:
            while self.next == self.count:
                if not self.next_batch():
                    raise StopIteration
            return self.make(&self.slots[self.next])
        finally:
            self.busy = False

    cdef int make_room(self, Py_ssize_t count) except -1:
        if count > self.room:
            PyMem_Free(self.slots)
            self.room = 0
            self.slots = <Slot*>PyMem_Malloc(count * sizeof(Slot))
            if self.slots == NULL:
                raise MemoryError
            self.room = count
        return 0

    cdef bint next_batch(self) except -1:
        # Whether there is another batch: then its slots are filled.
        cdef const unsigned char* base
        cdef Py_ssize_t start = self.position, next_start
        cdef Header header
        cdef Area area
        cdef Fault fault
        cdef Status status
        if start >= self.end:
            return False
        base = <const unsigned char*>self.source.view.buf
        if read_batch(base, start, self.end, &header, &fault) != OK:
            return False
        if header.attributes & self.stop_mask or header.base_offset >= self.max_offset:
            return False
        next_start = start + PREFIX_BYTES + <Py_ssize_t>header.length
        if self.verify:
            if header.length < UNLOCK_SIZE:
                status = check_crc(base, start, &header, &fault)
            else:
                with nogil:
                    status = check_crc(base, start, &header, &fault)
            if status != OK:
                return False
        base += start
        open_area(&area, base, HEADER_BYTES, next_start - start, &header, self.min_offset, self.max_offset)
        if self.fill(&area, &fault) != OK:
            return False
        self.place = Place(base, True, <uint32_t>header.length, header.crc)
        self.position = next_start
        return True

    cdef int fill(self, Area* area, Fault* fault) except? -1:
        # OK, or what is wrong.
        cdef Py_ssize_t count = 0
        cdef int status
        self.next = self.count = 0
        if area.count * (LEAST_RECORD_BODY + 1) > area.cursor.end - area.cursor.pos:
            return blame(fault, CORRUPT, area.cursor.pos, b"{0} records do not fit into their batch", area.count, 0)
        self.make_room(area.count)
        status = fill_slots(area, self.slots, &count, fault)
        if status == OK:
            self.count = count
        return status

    cdef PyObject* take(self, const Slot* slot, int field) except NULL:
        # A new reference. Batches mostly have one timestamp, whose int is then shared.
        cdef const unsigned char* base = self.place.base
        if field == 0:
            return new_int(slot.offset)
        if field == 1:
            if slot.timestamp != self.shared or self.shared_timestamp is None:
                self.shared_timestamp, self.shared = slot.timestamp, slot.timestamp
            return share(self.shared_timestamp)
        if field == 2:
            return share(None) if slot.key_length < 0 else copied_bytes(base + slot.key_position, slot.key_length)
        if field == 3:
            return share(None) if slot.value_length < 0 else copied_bytes(base + slot.value_position, slot.value_length)
        return share(checked_headers(self.source, &self.place, slot))

    cdef object make_tuple(self, const Slot* slot):
        cdef tuple made = PyTuple_New(self.field_count)
        cdef int at
        for at in range(self.field_count):
            put_item(made, at, self.take(slot, self.fields[at]))
        return made

    cdef object make_one(self, const Slot* slot):
        cdef PyObject* made = self.take(slot, self.fields[0])
        cdef object found = <object>made
        Py_DECREF(found)
        return found

    cdef object make_lazy(self, const Slot* slot):
        cdef LazyRecord lazy = LazyRecord.__new__(LazyRecord)
        lazy.source, lazy.place, lazy.slot = self.source, self.place, slot[0]
        return lazy

    cdef object make_record(self, const Slot* slot):
        return make_record(
            <PyTypeObject*>self.record, self.take(slot, 0), self.take(slot, 1), self.take(slot, 2),
            self.take(slot, 3), self.take(slot, 4),
        )

    cdef object make(self, const Slot* slot):
        cdef object made
        if self.shape == LAZY:
            made = self.make_lazy(slot)
        elif self.shape == TUPLE:
            made = self.make_tuple(slot)
        elif self.shape == VALUE:
            made = self.make_one(slot)
        else:
            made = self.make_record(slot)
        self.next += 1
        check_copy(self.source, &self.place)
        return made


cdef Rows new_rows(Source source, int shape, fields, type record):
    cdef Rows rows = Rows.__new__(Rows)
    cdef tuple chosen = tuple(fields)
    if not issubclass(record, Record) or record.__basicsize__ != Record.__basicsize__ or record.__dictoffset__:
        raise TypeError(f"{record} is no Record with class attributes only")
    if not RECORD <= shape <= VALUE:
        raise ValueError(f"there is no shape {shape}")
    rows.source, rows.shape, rows.record = source, shape, record
    if shape == RECORD or shape == LAZY:
        return rows
    if not 1 <= len(chosen) <= FIELD_COUNT or (shape == VALUE and len(chosen) != 1):
        raise ValueError(f"{chosen} are no fields of that shape")
    for field in chosen:
        if not 0 <= field < FIELD_COUNT:
            raise ValueError(f"{chosen} are no fields of that shape")
        rows.fields[rows.field_count] = field
        rows.field_count += 1
    return rows


def read_rows(
    Source source not None, Py_ssize_t start, Py_ssize_t end, int64_t min_offset, int64_t max_offset, int stop_mask,
    bint verify, int shape, tuple fields=(), type record=Record,
):
    """The records with min_offset ≤ offset < max_offset of the whole batches in [start, end), in a shape.

    `record` is the type of SHAPE_RECORD: Record, or a subclass of it that adds nothing to an instance.
    """
    cdef Rows rows = new_rows(source, shape, fields, record)
    rows.end = checked_range(&source.view, start, end)
    rows.position = start
    rows.min_offset, rows.max_offset = min_offset, max_offset
    rows.stop_mask, rows.verify = stop_mask, verify
    return rows


def decode_rows(
    Source source not None, object header, int64_t min_offset, int64_t max_offset, int shape, tuple fields=(),
    type record=Record,
):
    """`read_rows` of one records area that is already decompressed. One that is not right raises CorruptRecord."""
    cdef Rows rows = new_rows(source, shape, fields, record)
    cdef Header found
    cdef Area area
    cdef Fault fault
    if source.view.len > UINT32_MAX:
        raise ValueError("a records area of more than 4 GiB")
    take_fields(&found, header)
    open_area(&area, <const unsigned char*>source.view.buf, 0, source.view.len, &found, min_offset, max_offset)
    if rows.fill(&area, &fault) != OK:
        raise_fault(&fault)
    rows.place = Place(area.cursor.base, False, 0, 0)
    rows.position = rows.end = source.view.len
    return rows
