# C types of loop.py, which Cython compiles as it is.

from pgdurable._runtime.machine cimport Machine

cdef class AsyncMachine(Machine):
    cdef public set tasks
    cdef public object loop, _body, _main
    cpdef burst(self)
    cpdef new_future(self)
