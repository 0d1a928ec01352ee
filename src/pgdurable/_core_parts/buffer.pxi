# A growing run of bytes, and the binary COPY encoding of single fields
# (PostgreSQL documentation, COPY, "Binary Format"): a field is its length as int32, then its bytes; null is -1.
# One growth policy for everything: double, never shrink.

cdef struct Buffer:
    char *data
    Py_ssize_t size
    Py_ssize_t room


cdef int buffer_reserve(Buffer *b, Py_ssize_t more) except -1 nogil:
    cdef Py_ssize_t room
    cdef char *data
    if b.size + more <= b.room:
        return 0
    room = b.room * 2 if b.room else 4096
    while room < b.size + more:
        room *= 2
    data = <char *> realloc(b.data, room)
    if data == NULL:
        with gil:
            raise MemoryError(f"no memory for a batch of {room} bytes")
    b.data = data
    b.room = room
    return 0


cdef inline void buffer_free(Buffer *b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.size = b.room = 0


cdef inline int put_bytes(Buffer *b, const void *data, Py_ssize_t size) except -1 nogil:
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


cdef inline int32_t get_i32(const char *data) noexcept nogil:
    cdef uint32_t net
    memcpy(&net, data, 4)
    return <int32_t> ntohl(net)


cdef inline int64_t get_i64(const char *data) noexcept nogil:
    return (<int64_t> get_i32(data) << 32) | (<int64_t> <uint32_t> get_i32(data + 4))


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
