# C types of ids.py, which Cython compiles as it is.

cdef long long _last_ms
cdef int _count, _at
cdef bytes _pool
cdef object _turn
