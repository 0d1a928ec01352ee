# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The compiled core: the only room that touches libpq.

It encodes transitions as they arrive and sends a batch as one transaction: small ones as one prepared pipeline
(one round trip), large ones by binary COPY. It never blocks while a batch is under way: the caller watches the
socket. It knows rows and batches, not workflows, and keeps no policy: what to send next, when to reconnect and
what to do with a refused batch is the journal's business.

A `Flusher` belongs to one thread at a time (the event loop's).
"""

cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport FILE, fclose, fopen
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strcmp
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close as close_descriptor

from hashlib import sha256

from pgdurable.libpq cimport *

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "poll.h" nogil:
    enum: POLLIN, POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms)

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)

cdef extern from *:
    """
    /* The core's own state does not rely on the GIL: what several threads may touch goes through these. */
    static inline void *pgd_swap(void **slot, void *to) { return __atomic_exchange_n(slot, to, __ATOMIC_ACQ_REL); }
    static inline void pgd_add(long *counter, long n) { __atomic_add_fetch(counter, n, __ATOMIC_RELAXED); }
    static inline int pgd_enter(int *busy) { return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE); }
    static inline void pgd_leave(int *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    /* For what never lets go of the GIL in between: only where there is none can two threads be in it. */
    #ifdef Py_GIL_DISABLED
    #define pgd_enter_unlocked pgd_enter
    #define pgd_leave_unlocked pgd_leave
    #else
    #define pgd_enter_unlocked(busy) 1
    #define pgd_leave_unlocked(busy) ((void) (busy))
    #endif
    """
    void *atomic_swap "pgd_swap"(void **slot, void *value) nogil
    void atomic_add "pgd_add"(long *counter, long n) nogil
    bint atomic_enter "pgd_enter"(int *busy) nogil
    void atomic_leave "pgd_leave"(int *busy) nogil
    bint atomic_enter_unlocked "pgd_enter_unlocked"(int *busy) nogil
    void atomic_leave_unlocked "pgd_leave_unlocked"(int *busy) nogil

cdef long live_batches = 0
cdef long live_flushers = 0
cdef long live_connections = 0

# Microseconds between the epochs of PostgreSQL (2000-01-01) and of Unix.
cdef int64_t PG_EPOCH_US = 946684800000000
# The first time that can be counted from PostgreSQL's epoch too.
cdef int64_t EARLIEST_US = -0x7fffffffffffffff - 1 + PG_EPOCH_US

include "_core_parts/buffer.pxi"
include "_core_parts/batch.pxi"
include "_core_parts/arrays.pxi"
include "_core_parts/wire.pxi"
include "_core_parts/histogram.pxi"
include "_core_parts/flight.pxi"
include "_core_parts/flusher.pxi"
include "_core_parts/json.pxi"
include "_core_parts/bulk.pxi"
include "_core_parts/audit.pxi"


def live_objects():
    """How many batches, flushers and connections exist, as a dict: tests check that it ends at zero."""
    return {"batches": live_batches, "flushers": live_flushers, "connections": live_connections}


def libpq_version():
    """The version of the libpq in use, such as 150018."""
    return PQlibVersion()
