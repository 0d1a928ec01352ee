# C types of steps.py, which Cython compiles as it is.

from pgdurable._engine.host cimport Host
from pgdurable._engine.hosted cimport Hosted
from pgdurable._runtime.machine cimport Command

cdef class StepRun:
    cdef public Hosted hosted
    cdef public Command command
    cdef public object value, error, task, later, timer, entering, extra
    cdef public Py_ssize_t attempt, event_id
    cdef public bint timed_out, committing, queued, begun
    cdef public double started

    cpdef bint end_attempt(self)

cdef class AttemptRecord:
    cdef public object run
    cdef public double wait
