# C types of journal.py, which Cython compiles as it is.

from pgdurable._engine.link cimport Link

cdef class Journal:
    cdef public object flusher, clock
    cdef public bint _kicked, _fenced, _closed, _delivering, _looking
    cdef public object _loop
    cdef public double _busy_wait, _sent, _pause_until, _backoff
    cdef public int _selector
    cdef public Link _link
    cdef dict __dict__
    cdef object __weakref__

    cpdef kick(self)
    cpdef _hand_out(self)
