# A batch: the transitions that commit together, encoded as they arrive.
#
# Rows are kept in binary COPY form. The pipeline's array parameters are cut out of the same bytes when a batch
# is sent: an array element and a COPY field are both a length and the bytes, so cutting is memcpy.

cdef enum:
    OP_HISTORY = 0
    OP_INSTANCE = 1
    OP_RELEASE = 2
    KINDS = 3

cdef enum:
    MAX_COLUMNS = 10
    HISTORY_COLUMNS = 10
    INSTANCE_COLUMNS = 7
    RELEASE_COLUMNS = 5

cdef struct Op:
    int kind
    Py_ssize_t start       # the row's span in rows[kind]
    Py_ssize_t end
    int64_t event_seq      # an event consumed together with the row, or -1
    int64_t added_ns


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1000000000 + now.tv_nsec


@cython.final
cdef class Batch:
    """Transitions that commit together. Made and filled by a `Flusher`.

    Attributes:
        tags: one object per transition, in the order added.
        again: whether an earlier attempt may have committed, so that rows already there count as ours.
    """

    cdef Buffer rows[KINDS]
    cdef Py_ssize_t counts[KINDS]
    cdef Op *ops
    cdef Py_ssize_t n_ops
    cdef Py_ssize_t room_ops
    cdef Py_ssize_t n_events
    cdef public list tags
    cdef public bint again

    def __cinit__(self):
        global live_batches
        live_batches += 1
        self.tags = []

    def __dealloc__(self):
        global live_batches
        cdef int kind
        live_batches -= 1
        for kind in range(KINDS):
            buffer_free(&self.rows[kind])
        free(self.ops)

    def __len__(self):
        return self.n_ops

    @property
    def nbytes(self):
        """Encoded bytes of all rows."""
        return self.rows[OP_HISTORY].size + self.rows[OP_INSTANCE].size + self.rows[OP_RELEASE].size

    @property
    def counts_by_kind(self):
        """(history rows, instance rows, releases, consumed events)."""
        return self.counts[OP_HISTORY], self.counts[OP_INSTANCE], self.counts[OP_RELEASE], self.n_events

    def rows_of(self, int kind):
        """The encoded rows of one kind (0 history, 1 instances, 2 releases), for tests."""
        return PyBytes_FromStringAndSize(self.rows[kind].data, self.rows[kind].size)

    cdef int add_history(self, bytes instance_id, int32_t event_id, object seq, object fingerprint,
                         object elapsed_ms, object attempt, str kind, str name, bytes payload, bytes error,
                         object tag, int64_t event_seq) except -1:
        cdef Buffer *b = &self.rows[OP_HISTORY]
        cdef Py_ssize_t start = b.size
        try:
            put_i16(b, HISTORY_COLUMNS)
            field_uuid(b, instance_id)
            field_i32(b, event_id)
            if seq is None:
                field_null(b)
            else:
                field_i32(b, seq)
            if fingerprint is None:
                field_null(b)
            else:
                field_i32(b, fingerprint)
            if elapsed_ms is None:
                field_null(b)
            else:
                field_f32(b, elapsed_ms)
            if attempt is None:
                field_null(b)
            else:
                field_i16(b, min(<int64_t> attempt, 32767))  # smallint; retries without end go on at its end
            field_text(b, kind)
            field_text(b, name)
            field_jsonb(b, payload)
            field_jsonb(b, error)
            self.close_row(OP_HISTORY, start, event_seq, tag)
        except BaseException:
            b.size = start
            raise
        return 0

    cdef int add_instance(self, bytes instance_id, str workflow, str version, str status, str queue, object owner,
                          bytes input, object tag) except -1:
        cdef Buffer *b = &self.rows[OP_INSTANCE]
        cdef Py_ssize_t start = b.size
        try:
            put_i16(b, INSTANCE_COLUMNS)
            field_uuid(b, instance_id)
            field_text(b, workflow)
            field_text(b, version)
            field_text(b, status)
            field_text(b, queue)
            if owner is None:
                field_null(b)
            else:
                field_i64(b, owner)
            field_jsonb(b, input)
            self.close_row(OP_INSTANCE, start, -1, tag)
        except BaseException:
            b.size = start
            raise
        return 0

    cdef int add_release(self, bytes instance_id, str status, bytes output, bytes error, object wake_at_us,
                         object tag) except -1:
        cdef Buffer *b = &self.rows[OP_RELEASE]
        cdef Py_ssize_t start = b.size
        try:
            put_i16(b, RELEASE_COLUMNS)
            field_uuid(b, instance_id)
            field_text(b, status)
            field_jsonb(b, output)
            field_jsonb(b, error)
            if wake_at_us is None:
                field_null(b)
            else:
                field_i64(b, <int64_t> wake_at_us - PG_EPOCH_US)
            self.close_row(OP_RELEASE, start, -1, tag)
        except BaseException:
            b.size = start
            raise
        return 0

    cdef int close_row(self, int kind, Py_ssize_t start, int64_t event_seq, object tag) except -1:
        cdef Op *ops
        cdef Py_ssize_t room
        if self.n_ops == self.room_ops:
            room = self.room_ops * 2 if self.room_ops else 64
            ops = <Op *> realloc(self.ops, room * sizeof(Op))
            if ops == NULL:
                raise MemoryError(f"no memory for a batch of {room} transitions")
            self.ops = ops
            self.room_ops = room
        self.tags.append(tag)
        self.ops[self.n_ops] = Op(kind, start, self.rows[kind].size, event_seq, monotonic_ns())
        self.n_ops += 1
        self.counts[kind] += 1
        if event_seq >= 0:
            self.n_events += 1
        return 0

    def split(self):
        """Two batches with the first and the second half of the transitions, in their idempotent form."""
        cdef Py_ssize_t middle = self.n_ops // 2
        return self.cut(0, middle), self.cut(middle, self.n_ops)

    cdef Batch cut(self, Py_ssize_t first, Py_ssize_t last):
        cdef Batch part = Batch()
        cdef Py_ssize_t i, start
        cdef Op *op
        part.again = True
        for i in range(first, last):
            op = &self.ops[i]
            start = part.rows[op.kind].size
            put_bytes(&part.rows[op.kind], self.rows[op.kind].data + op.start, op.end - op.start)
            part.close_row(op.kind, start, op.event_seq, self.tags[i])
            part.ops[part.n_ops - 1].added_ns = op.added_ns
        return part
