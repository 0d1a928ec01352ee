# C types of host.py, which Cython compiles as it is.

from pgdurable._engine.journal cimport Journal

cdef class Host:
    cdef public Journal journal
    cdef public object call_later, lasted, async_machine, thread_machine
    cdef public object encryption, flusher, clock, registry, loop, crew, threads, transactions, admission, worker
    cdef public object payload_limit
    cdef public bint fenced, draining
    cdef public dict instances, consuming, kept
    cdef public Py_ssize_t starting, steps_running, steps_done, ended
    cdef public set queued
    cdef public object on_outcome, on_reply, on_fenced, on_parked, on_missed, on_slot, new_id, room
    cdef public object _quiet, timers, parking, requests, undo, about
    cdef dict __dict__
    cdef object __weakref__

    cpdef kick(self)
