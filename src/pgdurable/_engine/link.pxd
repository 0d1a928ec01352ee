# C types of link.py, which Cython compiles as it is.

cdef class Link:
    cdef public bint up, writing, prepared
    cdef public Py_ssize_t reconnects
    cdef public object trouble
    cdef int _fd
    cdef object _flusher, _dsn, _on_ready, _on_connected, _on_back, _troubles, _loop, _worker, _setup
    cdef object _reconnecting, _connecting
    cdef dict __dict__
    cdef object __weakref__
