# The pipeline's array parameters, cut out of a batch's encoded rows.

cdef enum:
    ARRAY_HEADER_SIZE = 20
    # An array's memory is kept for the next flush up to this size.
    MOST_KEPT_BYTES = 1 << 20
    SMALL_BATCH_BYTES = 1 << 16

# Element types per column, in the order of the statements in sql/queries/flush.sql.
cdef int[10] HISTORY_TYPES = [2950, 23, 23, 23, 700, 21, 25, 25, 3802, 3802]
cdef int[7] INSTANCE_TYPES = [2950, 25, 25, 25, 25, 20, 3802]
cdef int[5] RELEASE_TYPES = [2950, 25, 3802, 3802, 1184]
cdef int[4] WRITE_TYPES = [2950, 25, 23, 3802]


@cython.final
cdef class Columns:
    """One array per column, in PostgreSQL's binary form, and the parameter list that points at them."""

    cdef Buffer columns[MAX_COLUMNS]
    cdef Buffer event_array
    cdef char worker_param[8]
    cdef const char *values[MAX_COLUMNS + 1]
    cdef int lengths[MAX_COLUMNS + 1]
    cdef int formats[MAX_COLUMNS + 1]

    def __cinit__(self):
        cdef int i
        for i in range(MAX_COLUMNS + 1):
            self.formats[i] = 1

    def __dealloc__(self):
        cdef int i
        for i in range(MAX_COLUMNS):
            buffer_free(&self.columns[i])
        buffer_free(&self.event_array)

    cdef void set_worker(self, int64_t worker) noexcept:
        """Parameter 0: the worker's id."""
        cdef uint32_t high = htonl(<uint32_t> (worker >> 32))
        cdef uint32_t low = htonl(<uint32_t> worker)
        memcpy(self.worker_param, &high, 4)
        memcpy(self.worker_param + 4, &low, 4)
        self.values[0] = self.worker_param
        self.lengths[0] = 8

    cdef int set_rows(self, Batch batch, int kind, int n_columns, int *types, int first) except -1:
        """Parameters from `first` on: the columns of the batch's rows of one kind."""
        cdef int i
        for i in range(n_columns):
            self.columns[i].size = 0
        self.cut_columns(batch, kind, n_columns, types)
        for i in range(n_columns):
            self.values[first + i] = self.columns[i].data
            self.lengths[first + i] = <int> self.columns[i].size
        return 0

    cdef int set_events(self, Batch batch) except -1:
        """Parameter 0: the events the batch consumes."""
        cdef Buffer *b = &self.event_array
        cdef Py_ssize_t i
        cdef char *at
        buffer_reserve(b, ARRAY_HEADER_SIZE + 12 * batch.n_events)
        at = at_array_header(b.data, 20, batch.n_events)
        for i in range(batch.n_ops):
            if batch.ops()[i].event_seq >= 0:
                at = at_field_i64(at, batch.ops()[i].event_seq)
        self.values[0] = b.data
        self.lengths[0] = <int> (at - b.data)
        return 0

    cdef int cut_columns(self, Batch batch, int kind, int n_columns, int *types) except -1 nogil:
        cdef Buffer *rows = &batch.memory.rows[kind]
        cdef const char *at = rows.data + COPY_HEADER_SIZE
        cdef const char *end = rows.data + rows.size
        cdef Py_ssize_t sizes[MAX_COLUMNS]
        cdef char *to[MAX_COLUMNS]
        cdef int32_t size
        cdef int i
        for i in range(n_columns):
            # Of a small batch each array gets the room that all would need together.
            sizes[i] = ARRAY_HEADER_SIZE + (rows.size if rows.size <= SMALL_BATCH_BYTES else 0)
        if rows.size > SMALL_BATCH_BYTES:
            add_sizes(sizes, n_columns, at, end)
        for i in range(n_columns):
            buffer_reserve(&self.columns[i], sizes[i])
            to[i] = at_array_header(self.columns[i].data, types[i], batch.counts[kind])
        while at < end:
            at += 2
            for i in range(n_columns):
                size = get_i32(at)
                # With a constant size the compiler writes it out.
                if size == 4:
                    to[i] = at_bytes(to[i], at, 8)
                    at += 8
                elif size >= 0:
                    to[i] = at_bytes(to[i], at, 4 + size)
                    at += 4 + size
                else:
                    # byte 7 is the low byte of the array's "has nulls" flag
                    self.columns[i].data[7] = 1
                    to[i] = at_bytes(to[i], at, 4)
                    at += 4
        for i in range(n_columns):
            self.columns[i].size = to[i] - self.columns[i].data
        return 0

    cdef void forget(self) noexcept nogil:
        """What was sent is in libpq's hands: the arrays' memory is for the next flush, unless it is large."""
        cdef int i
        for i in range(MAX_COLUMNS):
            buffer_clear(&self.columns[i])
        buffer_clear(&self.event_array)


cdef void add_sizes(Py_ssize_t *sizes, int n_columns, const char *at, const char *end) noexcept nogil:
    cdef int32_t size
    cdef int i
    while at < end:
        at += 2
        for i in range(n_columns):
            size = get_i32(at)
            size = 4 + (size if size > 0 else 0)
            sizes[i] += size
            at += size


cdef inline void buffer_clear(Buffer *b) noexcept nogil:
    b.size = 0
    if b.room > MOST_KEPT_BYTES:
        buffer_free(b)


cdef inline char *at_array_header(char *at, int element_type, Py_ssize_t n) noexcept nogil:
    # Binary form of a one-dimensional array: dimensions, has-nulls flag, element type, length, lower bound.
    at = at_i32(at_i32(at_i32(at, 1), 0), element_type)
    return at_i32(at_i32(at, <int32_t> n), 1)
