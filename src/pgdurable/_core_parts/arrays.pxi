# The pipeline's array parameters, cut out of a batch's encoded rows.

# Element types per column, in the order of the statements in sql/queries/flush.sql.
cdef int[10] HISTORY_TYPES = [2950, 23, 23, 23, 700, 21, 25, 25, 3802, 3802]
cdef int[7] INSTANCE_TYPES = [2950, 25, 25, 25, 25, 20, 3802]
cdef int[5] RELEASE_TYPES = [2950, 25, 3802, 3802, 1184]


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
        self.cut_columns(batch, kind, n_columns, types)
        for i in range(n_columns):
            self.values[first + i] = self.columns[i].data
            self.lengths[first + i] = <int> self.columns[i].size
        return 0

    cdef int set_events(self, Batch batch) except -1:
        """Parameter 0: the events the batch consumes."""
        cdef Py_ssize_t i
        array_header(&self.event_array, 20, batch.n_events)
        for i in range(batch.n_ops):
            if batch.ops[i].event_seq >= 0:
                field_i64(&self.event_array, batch.ops[i].event_seq)
        self.values[0] = self.event_array.data
        self.lengths[0] = <int> self.event_array.size
        return 0

    cdef int cut_columns(self, Batch batch, int kind, int n_columns, int *types) except -1 nogil:
        cdef Buffer *rows = &batch.rows[kind]
        cdef const char *at = rows.data
        cdef const char *end = rows.data + rows.size
        cdef int32_t size
        cdef Py_ssize_t span
        cdef int i
        for i in range(n_columns):
            array_header(&self.columns[i], types[i], batch.counts[kind])
        while at < end:
            at += 2
            for i in range(n_columns):
                size = get_i32(at)
                if size < 0:
                    # byte 7 is the low byte of the array's "has nulls" flag
                    self.columns[i].data[7] = 1
                    span = 4
                else:
                    span = 4 + size
                put_bytes(&self.columns[i], at, span)
                at += span
        return 0


cdef int array_header(Buffer *b, int element_type, Py_ssize_t n) except -1 nogil:
    # Binary form of a one-dimensional array: dimensions, has-nulls flag, element type, length, lower bound.
    b.size = 0
    put_i32(b, 1)
    put_i32(b, 0)
    put_i32(b, element_type)
    put_i32(b, <int32_t> n)
    return put_i32(b, 1)
