# C types of records.py, which Cython compiles as it is.

from pgdurable._engine.host cimport Host
from pgdurable._engine.hosted cimport Hosted

cdef class StartRecord:
    cdef public Host host
    cdef public object id, definition, input, queue, future, loaded
    cdef public bint owned

cdef class TimerRecord:
    cdef public Hosted hosted
    cdef public Py_ssize_t seq

cdef class ReleaseRecord:
    cdef public Hosted hosted
    cdef public object status, outcome
