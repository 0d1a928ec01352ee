# A growing run of bytes, and the binary COPY encoding of single fields
# (PostgreSQL documentation, COPY, "Binary Format"): a field is its length as int32, then its bytes; null is -1.
# One growth policy for everything: double, never shrink (what is kept for the next batch is bounded, see batch.pxi).
#
# put_* and field_* look for room each time. A row whose size is known beforehand reserves once and is written by the
# at_* functions, which look at nothing and return the place behind what they wrote.

cdef struct Buffer:
    char *data
    Py_ssize_t size
    Py_ssize_t room


cdef int grow(char **data, Py_ssize_t *room, Py_ssize_t wanted, Py_ssize_t first) except -1 nogil:
    """Room for `wanted` bytes. Where there is no memory, what is there stays as it was."""
    cdef Py_ssize_t more = room[0] if room[0] else first
    cdef char *grown
    while more < wanted:
        more *= 2
    grown = <char *> realloc(data[0], more)
    if grown == NULL:
        with gil:
            raise MemoryError(f"no memory for a batch of {more} bytes")
    data[0] = grown
    room[0] = more
    return 0


cdef inline int buffer_reserve(Buffer *b, Py_ssize_t more) except -1 nogil:
    if b.size + more > b.room:
        grow(&b.data, &b.room, b.size + more, 4096)
    return 0


cdef inline void buffer_free(Buffer *b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.size = b.room = 0


cdef inline int put_bytes(Buffer *b, const void *data, Py_ssize_t size) except -1 nogil:
    if size > 0:  # else there may be no memory yet to point into
        buffer_reserve(b, size)
        memcpy(b.data + b.size, data, size)
        b.size += size
    return 0


cdef inline int put_i16(Buffer *b, int value) except -1 nogil:
    cdef uint16_t net = htons(<uint16_t> value)
    return put_bytes(b, &net, 2)


cdef inline int put_i32(Buffer *b, int32_t value) except -1 nogil:
    cdef uint32_t net = htonl(<uint32_t> value)
    return put_bytes(b, &net, 4)


cdef inline int put_i64(Buffer *b, int64_t value) except -1 nogil:
    put_i32(b, <int32_t> (value >> 32))
    return put_i32(b, <int32_t> value)


cdef inline char *at_bytes(char *at, const void *data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size


cdef inline char *at_i16(char *at, int value) noexcept nogil:
    cdef uint16_t net = htons(<uint16_t> value)
    memcpy(at, &net, 2)
    return at + 2


cdef inline char *at_i32(char *at, int32_t value) noexcept nogil:
    cdef uint32_t net = htonl(<uint32_t> value)
    memcpy(at, &net, 4)
    return at + 4


cdef inline char *at_i64(char *at, int64_t value) noexcept nogil:
    return at_i32(at_i32(at, <int32_t> (value >> 32)), <int32_t> value)


cdef inline char *at_field_i16(char *at, int value) noexcept nogil:
    return at_i16(at_i32(at, 2), value)


cdef inline char *at_field_i32(char *at, int32_t value) noexcept nogil:
    return at_i32(at_i32(at, 4), value)


cdef inline char *at_field_i64(char *at, int64_t value) noexcept nogil:
    return at_i64(at_i32(at, 8), value)


cdef inline char *at_field_f32(char *at, float value) noexcept nogil:
    cdef int32_t bits
    memcpy(&bits, &value, 4)
    return at_field_i32(at, bits)


# Texts and JSON as they lie in memory: NULL is SQL null.
cdef struct Span:
    const char *data
    Py_ssize_t size


cdef inline char *at_text(char *at, Span *text) noexcept nogil:
    if text.data == NULL:
        return at_i32(at, -1)
    return at_bytes(at_i32(at, <int32_t> text.size), text.data, text.size)


cdef inline char *at_jsonb(char *at, Span *json) noexcept nogil:
    # jsonb's binary form is a version byte (1) and the JSON text.
    if json.data == NULL:
        return at_i32(at, -1)
    at = at_i32(at, <int32_t> (json.size + 1))
    at[0] = 1
    return at_bytes(at + 1, json.data, json.size)


cdef inline int span_of_text(Span *span, str value) except -1:
    span.data = NULL
    span.size = 0
    if value is not None:
        span.data = PyUnicode_AsUTF8AndSize(value, &span.size)
    return 0


cdef inline int span_of_bytes(Span *span, bytes value) except -1:
    span.data = NULL
    span.size = 0
    if value is not None:
        span.data = <const char *> value
        span.size = len(value)
    return 0


cdef inline int32_t get_i32(const char *data) noexcept nogil:
    cdef uint32_t net
    memcpy(&net, data, 4)
    return <int32_t> ntohl(net)


cdef inline int64_t get_i64(const char *data) noexcept nogil:
    return <int64_t> ((<uint64_t> <uint32_t> get_i32(data) << 32) | <uint32_t> get_i32(data + 4))


cdef inline int field_null(Buffer *b) except -1 nogil:
    return put_i32(b, -1)


cdef inline int field_i16(Buffer *b, int value) except -1 nogil:
    put_i32(b, 2)
    return put_i16(b, value)


cdef inline int field_i32(Buffer *b, int32_t value) except -1 nogil:
    put_i32(b, 4)
    return put_i32(b, value)


cdef inline int field_i64(Buffer *b, int64_t value) except -1 nogil:
    put_i32(b, 8)
    return put_i64(b, value)


cdef inline int field_f32(Buffer *b, float value) except -1 nogil:
    cdef int32_t bits
    memcpy(&bits, &value, 4)
    put_i32(b, 4)
    return put_i32(b, bits)


cdef int field_uuid(Buffer *b, bytes value) except -1:
    if len(value) != 16:
        raise ValueError(f"an instance id has 16 bytes, found {len(value)}")
    put_i32(b, 16)
    return put_bytes(b, <const char *> value, 16)


cdef int field_text(Buffer *b, str value) except -1:
    cdef Py_ssize_t size
    cdef const char *data
    if value is None:
        return field_null(b)
    data = PyUnicode_AsUTF8AndSize(value, &size)
    put_i32(b, <int32_t> size)
    return put_bytes(b, data, size)


cdef int field_jsonb(Buffer *b, bytes value) except -1:
    # jsonb's binary form is a version byte (1) and the JSON text.
    cdef char version = 1
    if value is None:
        return field_null(b)
    put_i32(b, <int32_t> (len(value) + 1))
    put_bytes(b, &version, 1)
    return put_bytes(b, <const char *> value, len(value))
