# C types of ids.py, which Cython compiles as it is.


cdef class Ids:
    cdef object _now_us
    cdef bytes _pool
    cdef int _at, _count
    cdef long long _last_ms
    cdef object _turn
    cdef object __weakref__

    cdef long long _now_ms(self) except -1
    cpdef bytes new_id(self)
    cpdef bytes new_ids(self, long long n)
