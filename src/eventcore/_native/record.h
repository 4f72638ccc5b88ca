/* eventcore.types.Record objects, made without running its Python-level constructor. */
#ifndef EVENTCORE_RECORD_H
#define EVENTCORE_RECORD_H

#include <Python.h>

/* A Record of five members whose references it takes over, also when it fails. `type` is a subclass of tuple without
 * __dict__ or slots of its own, so its allocator gives a tuple with five empty places. */
static inline PyObject *make_record(PyTypeObject *type, PyObject *offset, PyObject *timestamp, PyObject *key,
                                    PyObject *value, PyObject *headers) {
    PyObject *record = (offset && timestamp && key && value && headers) ? type->tp_alloc(type, 5) : NULL;
    if (!record) {
        Py_XDECREF(offset);
        Py_XDECREF(timestamp);
        Py_XDECREF(key);
        Py_XDECREF(value);
        Py_XDECREF(headers);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)record)->ob_hash = -1; /* tuples cache their hash since 3.14; 0 would be taken for one */
#endif
    PyTuple_SET_ITEM(record, 0, offset);
    PyTuple_SET_ITEM(record, 1, timestamp);
    PyTuple_SET_ITEM(record, 2, key);
    PyTuple_SET_ITEM(record, 3, value);
    PyTuple_SET_ITEM(record, 4, headers);
    /* int, bytes, None and () cannot be part of a cycle: the garbage collector need not look at the record. */
    if (PyTuple_GET_SIZE(headers) == 0)
        PyObject_GC_UnTrack(record);
    return record;
}

#endif
