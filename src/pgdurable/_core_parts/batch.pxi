# A batch: the transitions that commit together, encoded as they arrive.
#
# Rows are kept in binary COPY form, behind COPY's header, so that they are sent from where they were encoded. The
# pipeline's array parameters are cut out of the same bytes when a batch is sent: an array element and a COPY field are
# both a length and the bytes, so cutting is memcpy.
#
# Adding reserves all it needs, converts every value and appends the tag before it writes the first byte: a row that
# cannot be encoded, or for which there is no memory, leaves the batch as it was.

cdef enum:
    OP_HISTORY = 0
    OP_INSTANCE = 1
    OP_RELEASE = 2
    OP_WRITE = 3           # something seldom, carried out by a function of the schema
    KINDS = 4

cdef enum:
    MAX_COLUMNS = 10
    HISTORY_COLUMNS = 10
    INSTANCE_COLUMNS = 7
    RELEASE_COLUMNS = 5
    WRITE_COLUMNS = 4

cdef enum:
    COPY_HEADER_SIZE = 19
    COPY_TRAILER_SIZE = 2
    # PostgreSQL takes no field, and no message, of 1 GB; a row is less than that with all of its fields.
    MOST_ROW_BYTES = 0x3fff0000
    # Memory of a batch that is gone is kept for the next one up to this size.
    MOST_SPARE_BYTES = 1 << 20
    FIRST_OPS = 64

cdef char *COPY_HEADER = b"PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0"
cdef char *COPY_TRAILER = b"\377\377"

cdef struct Op:
    int kind
    bint joined            # commits with the row before it, or not at all
    Py_ssize_t start       # the row's span in rows[kind]
    Py_ssize_t end
    int64_t event_seq      # an event consumed together with the row, or -1
    int64_t added_ns


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1000000000 + now.tv_nsec


# What a batch is written in.
cdef struct Memory:
    Buffer rows[KINDS]
    char *ops
    Py_ssize_t room_ops    # in bytes


cdef void memory_free(Memory *memory) noexcept nogil:
    cdef int kind
    if memory != NULL:
        for kind in range(KINDS):
            buffer_free(&memory.rows[kind])
        free(memory.ops)
        free(memory)


@cython.final
cdef class Spares:
    """The memory of up to two batches that are gone, for the next ones: one fills while another flies.

    Batches may be let go in any thread, so memory goes in and out by atomic exchange.
    """

    cdef void *slots[2]

    def __dealloc__(self):
        memory_free(<Memory *> self.slots[0])
        memory_free(<Memory *> self.slots[1])

    cdef Memory *get(self) except NULL:
        cdef Memory *memory = <Memory *> atomic_swap(&self.slots[0], NULL)
        if memory == NULL:
            memory = <Memory *> atomic_swap(&self.slots[1], NULL)
        if memory == NULL:
            memory = <Memory *> calloc(1, sizeof(Memory))
            if memory == NULL:
                raise MemoryError("no memory for a batch")
        return memory

    cdef void put(self, Memory *memory) noexcept:
        cdef int kind
        cdef Py_ssize_t room = memory.room_ops
        for kind in range(KINDS):
            memory.rows[kind].size = 0
            room += memory.rows[kind].room
        if room <= MOST_SPARE_BYTES:
            memory = <Memory *> atomic_swap(&self.slots[0], memory)
            if memory != NULL:
                memory = <Memory *> atomic_swap(&self.slots[1], memory)
        memory_free(memory)


@cython.final
cdef class Batch:
    """Transitions that commit together. Made and filled by a `Flusher`.

    Attributes:
        tags: one object per transition, in the order added.
        again: whether an earlier attempt may have committed, so that rows already there count as ours.
    """

    cdef Memory *memory
    cdef Spares spares
    cdef Py_ssize_t counts[KINDS]
    cdef Py_ssize_t n_ops
    cdef Py_ssize_t n_events
    cdef Py_ssize_t n_joined
    cdef public list tags
    cdef public bint again

    def __cinit__(self):
        atomic_add(&live_batches, 1)
        self.tags = []

    def __dealloc__(self):
        atomic_add(&live_batches, -1)
        if self.memory != NULL:
            if self.spares is not None:
                self.spares.put(self.memory)
            else:
                memory_free(self.memory)

    def __len__(self):
        return self.n_ops

    @property
    def nbytes(self):
        """Encoded bytes of all rows."""
        return self.bytes_of(OP_HISTORY) + self.bytes_of(OP_INSTANCE) + self.bytes_of(OP_RELEASE) + \
            self.bytes_of(OP_WRITE)

    @property
    def counts_by_kind(self):
        """(history rows, instance rows, releases, consumed events)."""
        return self.counts[OP_HISTORY], self.counts[OP_INSTANCE], self.counts[OP_RELEASE], self.n_events

    @property
    def writes(self):
        """How many rare writes there are."""
        return self.counts[OP_WRITE]

    def rows_of(self, int kind):
        """The encoded rows of one kind (0 history, 1 instances, 2 releases, 3 writes), for tests."""
        if not 0 <= kind < KINDS:
            raise IndexError(kind)
        if self.counts[kind] == 0:
            return b""
        return PyBytes_FromStringAndSize(self.memory.rows[kind].data + COPY_HEADER_SIZE, self.bytes_of(kind))

    cdef inline Py_ssize_t bytes_of(self, int kind) noexcept:
        return self.memory.rows[kind].size - COPY_HEADER_SIZE if self.counts[kind] else 0

    cdef inline bint has_rest(self) noexcept:
        """Whether there is more than rows to insert."""
        return self.counts[OP_RELEASE] > 0 or self.n_events > 0 or self.counts[OP_WRITE] > 0

    cdef inline Op *ops(self) noexcept:
        return <Op *> self.memory.ops if self.memory != NULL else NULL

    cdef int add_history(self, bytes instance_id, int32_t event_id, object seq, object fingerprint,
                         object elapsed_ms, object attempt, str kind, str name, bytes payload, bytes error,
                         object tag, int64_t event_seq) except -1:
        cdef Span texts[4]
        cdef int32_t c_seq = 0, c_fingerprint = 0
        cdef float c_elapsed = 0
        cdef int64_t c_attempt = 0
        cdef char *at
        if seq is not None:
            c_seq = seq
        if fingerprint is not None:
            c_fingerprint = fingerprint
        if elapsed_ms is not None:
            c_elapsed = elapsed_ms
        if attempt is not None:
            c_attempt = attempt
        span_of_text(&texts[0], kind)
        span_of_text(&texts[1], name)
        span_of_bytes(&texts[2], payload)
        span_of_bytes(&texts[3], error)
        # 58: the fields of fixed size
        at = self.open_row(OP_HISTORY, HISTORY_COLUMNS, instance_id, 58, texts, 4, tag)
        at = at_field_i32(at, event_id)
        at = at_field_i32(at, c_seq) if seq is not None else at_i32(at, -1)
        at = at_field_i32(at, c_fingerprint) if fingerprint is not None else at_i32(at, -1)
        at = at_field_f32(at, c_elapsed) if elapsed_ms is not None else at_i32(at, -1)
        # smallint; retries without end go on at its end
        at = at_field_i16(at, <int> min(c_attempt, 32767)) if attempt is not None else at_i32(at, -1)
        at = at_text(at, &texts[0])
        at = at_text(at, &texts[1])
        at = at_jsonb(at, &texts[2])
        at = at_jsonb(at, &texts[3])
        self.close_row(OP_HISTORY, at, event_seq, monotonic_ns())
        return 0

    cdef int add_instance(self, bytes instance_id, str workflow, str version, str status, str queue, object owner,
                          bytes input, object tag) except -1:
        cdef Span texts[5]
        cdef int64_t c_owner = 0
        cdef char *at
        cdef int i
        if owner is not None:
            c_owner = owner
        span_of_text(&texts[0], workflow)
        span_of_text(&texts[1], version)
        span_of_text(&texts[2], status)
        span_of_text(&texts[3], queue)
        span_of_bytes(&texts[4], input)
        at = self.open_row(OP_INSTANCE, INSTANCE_COLUMNS, instance_id, 34, texts, 5, tag)
        for i in range(4):
            at = at_text(at, &texts[i])
        at = at_field_i64(at, c_owner) if owner is not None else at_i32(at, -1)
        at = at_jsonb(at, &texts[4])
        self.close_row(OP_INSTANCE, at, -1, monotonic_ns())
        return 0

    cdef int add_release(self, bytes instance_id, str status, bytes output, bytes error, object wake_at_us,
                         object tag) except -1:
        cdef Span texts[3]
        cdef int64_t c_wake = 0
        cdef char *at
        if wake_at_us is not None:
            c_wake = wake_at_us
            if c_wake < EARLIEST_US:
                raise OverflowError(f"{wake_at_us} us since 1970 is no time PostgreSQL can store")
        span_of_text(&texts[0], status)
        span_of_bytes(&texts[1], output)
        span_of_bytes(&texts[2], error)
        at = self.open_row(OP_RELEASE, RELEASE_COLUMNS, instance_id, 34, texts, 3, tag)
        at = at_text(at, &texts[0])
        at = at_jsonb(at, &texts[1])
        at = at_jsonb(at, &texts[2])
        at = at_field_i64(at, c_wake - PG_EPOCH_US) if wake_at_us is not None else at_i32(at, -1)
        self.close_row(OP_RELEASE, at, -1, monotonic_ns())
        return 0

    cdef int add_write(self, bytes instance_id, str kind, int32_t place, bytes body, object tag,
                       bint joined) except -1:
        cdef Span texts[2]
        cdef char *at
        if joined and self.n_ops == 0:
            raise ValueError("there is no row that this write could join")
        span_of_text(&texts[0], kind)
        span_of_bytes(&texts[1], body)
        at = self.open_row(OP_WRITE, WRITE_COLUMNS, instance_id, 34, texts, 2, tag)
        at = at_text(at, &texts[0])
        at = at_field_i32(at, place)
        at = at_jsonb(at, &texts[1])
        self.close_row(OP_WRITE, at, -1, monotonic_ns(), joined)
        return 0

    cdef char *open_row(self, int kind, int columns, bytes instance_id, Py_ssize_t fixed, Span *texts, int n_texts,
                        object tag) except NULL:
        """Room for a row and its bookkeeping, with its head written: nothing that follows can fail."""
        cdef Py_ssize_t size = 2 + fixed + 5 * n_texts  # a text's length, and a jsonb's version
        cdef int i
        cdef char *at
        if instance_id is None or len(instance_id) != 16:
            raise ValueError(f"an instance id has 16 bytes, found {None if instance_id is None else len(instance_id)}")
        for i in range(n_texts):
            size += texts[i].size
        if size > MOST_ROW_BYTES:
            raise ValueError(f"a row of {size} bytes is more than PostgreSQL takes")
        at = self.reserve(kind, size)
        self.tags.append(tag)
        return at_bytes(at_i32(at_i16(at, columns), 16), <const char *> instance_id, 16)

    cdef char *reserve(self, int kind, Py_ssize_t size) except NULL:
        """Where the next row of a kind goes, with room for so many bytes and for its entry in the list of rows."""
        cdef Buffer *rows = &self.memory.rows[kind]
        buffer_reserve(rows, COPY_HEADER_SIZE + size + COPY_TRAILER_SIZE)
        if (self.n_ops + 1) * <Py_ssize_t> sizeof(Op) > self.memory.room_ops:
            grow(&self.memory.ops, &self.memory.room_ops, (self.n_ops + 1) * sizeof(Op), FIRST_OPS * sizeof(Op))
        if rows.size == 0:
            memcpy(rows.data, COPY_HEADER, COPY_HEADER_SIZE)
            rows.size = COPY_HEADER_SIZE
        return rows.data + rows.size

    cdef void close_row(self, int kind, char *end, int64_t event_seq, int64_t added_ns,
                        bint joined=False) noexcept:
        cdef Buffer *rows = &self.memory.rows[kind]
        cdef Py_ssize_t size = end - rows.data
        self.ops()[self.n_ops] = Op(kind, joined, rows.size, size, event_seq, added_ns)
        rows.size = size
        self.n_ops += 1
        self.counts[kind] += 1
        self.n_joined += joined
        if event_seq >= 0:
            self.n_events += 1

    def split(self):
        """Two batches with about half of the transitions each, in their idempotent form.

        What commits together stays together. A batch of nothing else is all there is: a tuple with itself.
        """
        cdef Py_ssize_t middle = self.n_ops // 2
        cdef Py_ssize_t i
        for i in range(middle):
            if not self.ops()[middle - i].joined:
                return self.cut(0, middle - i), self.cut(middle - i, self.n_ops)
        for i in range(middle + 1, self.n_ops):
            if not self.ops()[i].joined:
                return self.cut(0, i), self.cut(i, self.n_ops)
        return (self,)

    cdef Batch cut(self, Py_ssize_t first, Py_ssize_t last):
        cdef Batch part = new_batch(self.spares)
        cdef Py_ssize_t i
        cdef char *at
        cdef Op *op
        part.again = True
        for i in range(first, last):
            op = &self.ops()[i]
            at = part.reserve(op.kind, op.end - op.start)
            part.tags.append(self.tags[i])
            at = at_bytes(at, self.memory.rows[op.kind].data + op.start, op.end - op.start)
            part.close_row(op.kind, at, op.event_seq, op.added_ns, op.joined)
        return part


cdef Batch new_batch(Spares spares):
    cdef Batch batch = Batch()
    batch.memory = spares.get()
    batch.spares = spares
    return batch
