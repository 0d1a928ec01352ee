# C types of host.py, which Cython compiles as it is.

from pgdurable._engine.journal cimport Journal

cdef class Host:
    cdef public Journal journal
    cdef public object flusher, clock, registry, park_after, loop, crew, threads, transactions, worker
    cdef public object payload_limit
    cdef public bint fenced, draining
    cdef public dict instances
    cdef public Py_ssize_t starting, steps_running, steps_done, ended
    cdef public object on_outcome, on_fenced, on_parked
    cdef public object _quiet, _alarm
    cdef public dict _idle
    cdef public list _timers
    cdef public Py_ssize_t _timer_count
    cdef public object _alarm_us
    cdef dict __dict__
    cdef object __weakref__

    cpdef kick(self)
