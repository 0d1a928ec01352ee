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
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset, strcmp
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport getpid

from pgdurable.libpq cimport *

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)

cdef long live_batches = 0
cdef long live_flushers = 0

# Microseconds between the epochs of PostgreSQL (2000-01-01) and of Unix.
cdef int64_t PG_EPOCH_US = 946684800000000

include "_core_parts/buffer.pxi"
include "_core_parts/batch.pxi"
include "_core_parts/arrays.pxi"
include "_core_parts/wire.pxi"
include "_core_parts/histogram.pxi"
include "_core_parts/flusher.pxi"
include "_core_parts/json.pxi"
include "_core_parts/bulk.pxi"
include "_core_parts/audit.pxi"


def live_objects():
    """How many batches and flushers exist, as a dict: tests check that it ends at zero."""
    return {"batches": live_batches, "flushers": live_flushers}


def libpq_version():
    """The version of the libpq in use, such as 150018."""
    return PQlibVersion()
