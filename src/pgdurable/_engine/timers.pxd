# C types of timers.py, which Cython compiles as it is.

cdef class Timers:
    cdef object _loop, _clock, _on_due, _alarm, _alarm_us
    cdef list _heap
    cdef Py_ssize_t _count, _full
    cdef double _swept
    cdef object __weakref__

    cpdef add(self, hosted, command)
