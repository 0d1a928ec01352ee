# C types of hosted.py, which Cython compiles as it is.

from pgdurable._engine.host cimport Host
from pgdurable._runtime.machine cimport Machine

cdef class Hosted:
    cdef public Host host
    cdef public bytes id
    cdef public object key, definition, worker, about
    cdef public Machine machine
    cdef public Py_ssize_t next_event, unacked, run
    cdef public dict steps
    cdef public object consumed, deadline, holder, held, orderers, order_waiter
    cdef public object pending_deliveries, settled, when_settled
    cdef public bint closed, releasing, missed, pausing
    cdef public double idle_since
    cdef object __weakref__

    cpdef record_step(self, run, payload, error, elapsed_ms)
    cpdef after_burst(self)
