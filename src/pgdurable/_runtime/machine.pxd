# C types of machine.py, which Cython compiles as it is (docs/design.md, "What is compiled").

cdef class Command:
    cdef readonly Py_ssize_t seq
    cdef readonly object kind, name, fingerprint, future, step, args, kwargs
    cdef public object due_us
    cdef public bint cancelled

cdef class Machine:
    cdef readonly object label, workflow
    cdef public object seed, now_us
    cdef public Py_ssize_t next_seq
    cdef public dict pending
    cdef public list issued, cancelled
    cdef public bint replaying, dropped, busy, cancel_requested, cancel_is_late, timed_out, asked
    cdef public int _dropped_raises
    cdef public object outcome, cancel_reason, patches, history, desk
    cdef public Py_ssize_t moment, payload_limit
    cdef public dict _given_up, _signals, _waiters
    cdef public object _random
    cdef dict __dict__
    cdef object __weakref__

    cpdef issue_step(self, step, name, args, kwargs, fingerprint)
    cpdef issue_timer(self, due_us, future)
    cpdef cancel(self, Command command)
    cpdef answer(self, Py_ssize_t seq, value, error, at_us)
    cpdef fire(self, Py_ssize_t seq, at_us)
    cpdef drain(self)
    cpdef burst(self)
    cpdef new_future(self)
    cpdef _advance(self, at_us)
