# C types of records.py, which Cython compiles as it is.

cdef class StartRecord:
    cdef public object host, id, definition, input, queue, future
    cdef public bint owned

cdef class TimerRecord:
    cdef public object hosted
    cdef public Py_ssize_t seq

cdef class SignalRecord:
    cdef public object hosted, name, payload

cdef class ReleaseRecord:
    cdef public object hosted, status, outcome
