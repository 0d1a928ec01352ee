# C types of hosted.py, which Cython compiles as it is.

cdef class Hosted:
    cdef public object host, id, key, definition, worker, machine
    cdef public Py_ssize_t next_event, unacked
    cdef public dict steps
    cdef public object consumed, holder, held, orderers, order_waiter, pending_deliveries, settled
    cdef public bint closed, releasing, missed
    cdef public double idle_since
    cdef object __weakref__
