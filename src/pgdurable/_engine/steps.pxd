# C types of steps.py, which Cython compiles as it is.

cdef class StepRun:
    cdef public object hosted, command, value, error, task, later, timer
    cdef public Py_ssize_t attempt, event_id
    cdef public bint timed_out, committing, queued, begun
    cdef public double started

cdef class AttemptRecord:
    cdef public object run
    cdef public double wait
