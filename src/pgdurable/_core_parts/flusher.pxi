# The flusher: one connection, one batch filling, at most one batch flying.

cdef enum Mode:
    CLOSED = 0
    IDLE = 1
    PIPELINE = 2       # fence, inserts, releases, deletes, sync: one round trip
    COPYING = 3        # a simple query with fence and COPY, one transaction
    TAIL = 4           # after COPY: releases, deletes, commit, in a pipeline
    UNDOING = 5        # rolling back a COPY transaction that failed

cdef enum:
    MAX_COLUMNS = 10
    HISTORY_COLUMNS = 10
    INSTANCE_COLUMNS = 7
    RELEASE_COLUMNS = 5

# Element types per column, in the order of the statements in sql/queries/flush.sql.
cdef int[10] HISTORY_TYPES = [2950, 23, 23, 23, 700, 21, 25, 25, 3802, 3802]
cdef int[7] INSTANCE_TYPES = [2950, 25, 25, 25, 25, 20, 3802]
cdef int[5] RELEASE_TYPES = [2950, 25, 3802, 3802, 1184]

cdef char *COPY_HEADER = b"PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0"


@cython.final
cdef class Flusher:
    """Sends batches over one connection, without blocking.

    Args:
        statements: texts of sql/queries/flush.sql by name, for one schema.
        copy_from: history or instance rows from which on a batch goes by COPY rather than as one pipeline.
    """

    cdef PGconn *conn
    cdef int pid
    cdef Mode mode
    cdef Batch filling
    cdef Batch flying
    cdef dict statements
    cdef public Py_ssize_t copy_from
    cdef int64_t worker
    cdef bint fenced
    cdef Buffer columns[MAX_COLUMNS]
    cdef Buffer event_array
    cdef const char *values[MAX_COLUMNS + 1]
    cdef int lengths[MAX_COLUMNS + 1]
    cdef int formats[MAX_COLUMNS + 1]
    cdef char worker_param[8]
    cdef bint want_write
    cdef bint in_transaction
    cdef int copy_stage
    cdef int64_t at_us
    cdef tuple error
    cdef dict times_read
    cdef int reading
    cdef int64_t sent_ns
    cdef int64_t histogram[BUCKETS]
    cdef int64_t n_transitions, n_steps, n_flushes, n_copies, n_bytes

    def __cinit__(self, dict statements, Py_ssize_t copy_from=256):
        global live_flushers
        live_flushers += 1
        cdef int i
        self.statements = {name: text.encode() for name, text in statements.items()}
        self.copy_from = copy_from
        self.filling = Batch()
        self.mode = CLOSED
        for i in range(MAX_COLUMNS + 1):
            self.formats[i] = 1

    def __dealloc__(self):
        global live_flushers
        cdef int i
        live_flushers -= 1
        if self.conn != NULL and self.pid == getpid():
            PQfinish(self.conn)
        for i in range(MAX_COLUMNS):
            buffer_free(&self.columns[i])
        buffer_free(&self.event_array)

    # -- filling -------------------------------------------------------------------------------------------

    def add_history(self, bytes instance_id, int32_t event_id, object seq, object fingerprint,
                    object elapsed_ms, object attempt, str kind, str name, bytes payload, bytes error,
                    object tag, int64_t event_seq=-1):
        """Adds a history row, and with `event_seq` the removal of the event it came from.

        `payload` and `error` are JSON texts, checked by the caller; None is SQL null in every nullable column.
        """
        cdef Batch batch = self.filling
        cdef Buffer *b = &batch.rows[OP_HISTORY]
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
                field_i16(b, attempt)
            field_text(b, kind)
            field_text(b, name)
            field_jsonb(b, payload)
            field_jsonb(b, error)
            batch.close_row(OP_HISTORY, start, event_seq, tag)
        except BaseException:
            b.size = start
            raise

    def add_instance(self, bytes instance_id, str workflow, str version, str status, str queue, object owner,
                     bytes input, object tag):
        """Adds a new instance. `owner` None: whoever claims it; else the worker that runs it from the start."""
        cdef Batch batch = self.filling
        cdef Buffer *b = &batch.rows[OP_INSTANCE]
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
            batch.close_row(OP_INSTANCE, start, -1, tag)
        except BaseException:
            b.size = start
            raise

    def add_release(self, bytes instance_id, str status, bytes output, bytes error, object wake_at_us, object tag):
        """Ends this worker's ownership of an instance: it completed, failed, is parked or paused.

        `wake_at_us`: when a parked instance wants to run again, in microseconds since 1970; None: on an event.
        """
        cdef Batch batch = self.filling
        cdef Buffer *b = &batch.rows[OP_RELEASE]
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
            batch.close_row(OP_RELEASE, start, -1, tag)
        except BaseException:
            b.size = start
            raise

    def take(self):
        """The batch filled so far; a new one fills from now on."""
        cdef Batch batch = self.filling
        self.filling = Batch()
        return batch

    @property
    def waiting(self):
        """Transitions in the filling batch."""
        return self.filling.n_ops

    @property
    def waiting_bytes(self):
        """Encoded bytes in the filling batch."""
        return self.filling.nbytes

    # -- connection ----------------------------------------------------------------------------------------

    def connect(self, str conninfo, object worker, list setup, bint prepare=True):
        """Connects and prepares the statements. Blocks, with the GIL released; for a thread of its own.

        Args:
            conninfo: libpq connection string or URI; its timeouts hold.
            worker: the worker whose fence every batch passes; None for a client's batches, which have none.
            setup: SQL commands to run once on the connection.
        Raises:
            ConnectionError: with libpq's text.
        """
        cdef bytes info = conninfo.encode()
        cdef const char *c_info = info
        cdef PGconn *conn
        self.close()
        with nogil:
            conn = PQconnectdb(c_info)
        if conn == NULL:
            raise MemoryError("libpq gave no connection")
        if PQstatus(conn) != CONNECTION_OK:
            text = PQerrorMessage(conn).decode(errors="replace").strip()
            PQfinish(conn)
            raise ConnectionError(text)
        self.conn = conn
        self.pid = getpid()
        self.fenced = worker is not None
        self.worker = worker if worker is not None else 0
        try:
            for command in setup:
                self.run(command)
            for name, text in self.statements.items():
                if not name.startswith("copy_"):
                    self.prepare(b"pgd_" + name.encode(), text)
            self.prepare(b"pgd_now", b"select now()")
            self.prepare(b"pgd_commit", b"commit")
        except BaseException:
            self.close()
            raise
        PQsetnonblocking(self.conn, 1)
        self.mode = IDLE
        self.want_write = False

    cdef object run(self, str command):
        cdef bytes text = command.encode()
        cdef const char *c_text = text
        cdef PGresult *res
        with nogil:
            res = PQexec(self.conn, c_text)
        self.expect(res, "set-up of the connection failed")

    cdef object prepare(self, bytes name, bytes text):
        cdef const char *c_name = name
        cdef const char *c_text = text
        cdef PGresult *res
        with nogil:
            res = PQprepare(self.conn, c_name, c_text, 0, NULL)
        self.expect(res, "preparing a statement failed")

    cdef object expect(self, PGresult *res, str what):
        cdef ExecStatusType status
        if res == NULL:
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
        status = PQresultStatus(res)
        if status != PGRES_COMMAND_OK and status != PGRES_TUPLES_OK:
            text = PQresultErrorMessage(res).decode(errors="replace").strip()
            PQclear(res)
            raise ConnectionError(f"{what}: {text}")
        PQclear(res)

    def close(self):
        """Closes the connection at once. Returns the batch that was flying, its fate unknown, or None."""
        cdef Batch batch = self.flying
        if self.conn != NULL:
            if self.pid == getpid():
                PQfinish(self.conn)
            self.conn = NULL
        self.mode = CLOSED
        self.flying = None
        self.want_write = False
        if batch is not None:
            batch.again = True
        return batch

    @property
    def fileno(self):
        """The socket to watch, or -1."""
        return PQsocket(self.conn) if self.conn != NULL else -1

    @property
    def backend_pid(self):
        """Process id of the server's side of the connection, or None."""
        return PQbackendPID(self.conn) if self.conn != NULL else None

    @property
    def connected(self):
        return self.mode != CLOSED

    @property
    def idle(self):
        """Whether a batch can be sent now."""
        return self.mode == IDLE

    @property
    def wants_write(self):
        """Whether the socket must be watched for writing, and `ready` called then."""
        return self.want_write

    @property
    def flying_for_s(self):
        """Seconds since the flying batch was sent; 0.0 when none flies."""
        if self.flying is None:
            return 0.0
        return (monotonic_ns() - self.sent_ns) / 1e9

    # -- sending -------------------------------------------------------------------------------------------

    def send(self, Batch batch not None):
        """Begins to send a batch. Raises ConnectionError when the connection is gone (the batch then flies)."""
        cdef bint ok
        if self.mode != IDLE:
            raise RuntimeError("a batch is already flying, or there is no connection")
        if self.pid != getpid():
            raise RuntimeError("this connection belongs to the parent process; open an engine of your own after fork")
        self.flying = batch
        self.error = None
        self.at_us = 0
        self.times_read = {}
        self.sent_ns = monotonic_ns()
        if not batch.again and (batch.counts[OP_HISTORY] >= self.copy_from
                                or batch.counts[OP_INSTANCE] >= self.copy_from):
            ok = self.send_copy(batch)
        else:
            ok = self.send_pipeline(batch)
        if not ok or not self.push():
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())

    cdef bint push(self):
        cdef int left
        with nogil:
            left = PQflush(self.conn)
        self.want_write = left == 1
        return left >= 0

    cdef bint send_pipeline(self, Batch batch) except -1:
        cdef bytes suffix = b"_again" if batch.again else b""
        self.mode = PIPELINE
        if not PQenterPipelineMode(self.conn) or not self.send_fence():
            return False
        if batch.counts[OP_INSTANCE] and not self.send_rows(
                batch, OP_INSTANCE, b"pgd_insert_instances" + suffix, INSTANCE_COLUMNS, INSTANCE_TYPES, 0):
            return False
        if batch.again and batch.counts[OP_INSTANCE] and not PQsendQueryPrepared(
                self.conn, b"pgd_read_instances", 1, self.values, self.lengths, self.formats, 1):
            return False
        if batch.counts[OP_HISTORY] and not self.send_rows(
                batch, OP_HISTORY, b"pgd_insert_history" + suffix, HISTORY_COLUMNS, HISTORY_TYPES, 0):
            return False
        if batch.again and batch.counts[OP_HISTORY] and not PQsendQueryPrepared(
                self.conn, b"pgd_read_history", 2, self.values, self.lengths, self.formats, 1):
            return False
        if not self.send_rest(batch):
            return False
        return PQpipelineSync(self.conn) == 1

    cdef bint send_fence(self) except -1:
        if not self.fenced:
            return PQsendQueryPrepared(self.conn, b"pgd_now", 0, NULL, NULL, NULL, 1) == 1
        self.set_worker_param(0)
        return PQsendQueryPrepared(self.conn, b"pgd_fence", 1, self.values, self.lengths, self.formats, 1) == 1

    cdef void set_worker_param(self, int place) noexcept:
        cdef uint32_t high = htonl(<uint32_t> (self.worker >> 32))
        cdef uint32_t low = htonl(<uint32_t> self.worker)
        memcpy(self.worker_param, &high, 4)
        memcpy(self.worker_param + 4, &low, 4)
        self.values[place] = self.worker_param
        self.lengths[place] = 8

    cdef bint send_rest(self, Batch batch) except -1:
        """Releases and consumed events."""
        if batch.counts[OP_RELEASE]:
            self.set_worker_param(0)
            if not self.send_rows(batch, OP_RELEASE, b"pgd_release_instances", RELEASE_COLUMNS, RELEASE_TYPES, 1):
                return False
        if batch.n_events:
            self.cut_events(batch)
            self.values[0] = self.event_array.data
            self.lengths[0] = <int> self.event_array.size
            if not PQsendQueryPrepared(self.conn, b"pgd_delete_events", 1, self.values, self.lengths,
                                       self.formats, 1):
                return False
        return True

    cdef bint send_rows(self, Batch batch, int kind, bytes statement, int n_columns, int *types,
                        int first) except -1:
        cdef const char *c_statement = statement
        cdef int i
        self.cut_columns(batch, kind, n_columns, types)
        for i in range(n_columns):
            self.values[first + i] = self.columns[i].data
            self.lengths[first + i] = <int> self.columns[i].size
        return PQsendQueryPrepared(self.conn, c_statement, first + n_columns, self.values, self.lengths,
                                   self.formats, 1) == 1

    cdef int cut_columns(self, Batch batch, int kind, int n_columns, int *types) except -1 nogil:
        """One array per column, cut out of the encoded rows."""
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

    cdef int cut_events(self, Batch batch) except -1:
        cdef Py_ssize_t i
        array_header(&self.event_array, 20, batch.n_events)
        for i in range(batch.n_ops):
            if batch.ops[i].event_seq >= 0:
                field_i64(&self.event_array, batch.ops[i].event_seq)
        return 0

    cdef bint send_copy(self, Batch batch) except -1:
        # Without releases and events the simple query is a transaction by itself, commit included.
        cdef bytes text = b""
        cdef const char *c_text
        self.mode = COPYING
        self.n_copies += 1
        self.in_transaction = batch.counts[OP_RELEASE] > 0 or batch.n_events > 0
        if self.in_transaction:
            text = b"begin; "
        text += b"select (extract(epoch from at) * 1000000)::bigint from "
        text += (self.statements["fence"].replace(b"$1", str(self.worker).encode()).replace(b"select ", b"", 1)
                 if self.fenced else b"now()") + b" as at; "
        self.copy_stage = OP_INSTANCE
        if batch.counts[OP_INSTANCE]:
            text += self.statements["copy_instances"] + b"; "
        else:
            self.copy_stage = OP_HISTORY
        if batch.counts[OP_HISTORY]:
            text += self.statements["copy_history"]
        c_text = text
        return PQsendQuery(self.conn, c_text) == 1

    cdef bint send_copy_rows(self) except -1:
        cdef Buffer *rows = &self.flying.rows[self.copy_stage]
        cdef int ok
        self.copy_stage = OP_HISTORY
        with nogil:
            ok = PQputCopyData(self.conn, COPY_HEADER, 19)
            if ok == 1:
                ok = PQputCopyData(self.conn, rows.data, <int> rows.size)
            if ok == 1:
                ok = PQputCopyData(self.conn, b"\xff\xff", 2)
            if ok == 1:
                ok = PQputCopyEnd(self.conn, NULL)
        return ok == 1 and self.push()

    cdef bint send_tail(self) except -1:
        self.mode = TAIL
        if not PQenterPipelineMode(self.conn) or not self.send_rest(self.flying):
            return False
        if not PQsendQueryPrepared(self.conn, b"pgd_commit", 0, NULL, NULL, NULL, 1):
            return False
        return PQpipelineSync(self.conn) == 1 and self.push()

    # -- receiving -----------------------------------------------------------------------------------------

    def ready(self):
        """Takes in what the server sent; call it when the socket is readable, or writable and `wants_write`.

        Returns None while the batch is under way, else a tuple: ``("committed", batch, at_us, times)`` with the
        transaction's time in microseconds since 1970, or ``("refused", batch, sqlstate, message)``. `times` is None,
        or for a batch sent again one time per transition: rows that an earlier attempt committed keep their time.
        Raises ConnectionError when the connection is gone; `close` then gives back the batch.
        """
        cdef int ok
        cdef PGresult *res
        if self.conn == NULL:
            raise ConnectionError("there is no connection")
        with nogil:
            ok = PQconsumeInput(self.conn)
        if not ok or (self.want_write and not self.push()):
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
        if self.flying is None:
            if PQstatus(self.conn) != CONNECTION_OK:
                raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
            return None
        while not PQisBusy(self.conn):
            res = PQgetResult(self.conn)
            if res == NULL:
                if self.mode == COPYING or self.mode == UNDOING:
                    if not self.after_simple_query():
                        continue
                    return self.finish()
                if PQstatus(self.conn) != CONNECTION_OK:
                    raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
                continue
            try:
                if self.take_result(res):
                    return self.finish()
            finally:
                PQclear(res)
        return None

    cdef bint take_result(self, PGresult *res) except -1:
        """Whether the batch is done."""
        cdef ExecStatusType status = PQresultStatus(res)
        if status == PGRES_PIPELINE_SYNC:
            PQexitPipelineMode(self.conn)
            if self.error is not None and PQtransactionStatus(self.conn) == PQTRANS_INERROR:
                self.undo()
                return False
            return True
        if status == PGRES_TUPLES_OK:
            if self.at_us == 0 and PQntuples(res) == 1 and not PQgetisnull(res, 0, 0):
                if self.mode == COPYING:
                    self.at_us = int(PQgetvalue(res, 0, 0))
                elif PQgetlength(res, 0, 0) == 8:
                    self.at_us = get_i64(PQgetvalue(res, 0, 0)) + PG_EPOCH_US
            elif self.flying.again:
                # Instances are read before history.
                self.times_read[OP_INSTANCE if self.flying.counts[OP_INSTANCE] and OP_INSTANCE not in self.times_read
                                else OP_HISTORY] = times_of(res)
        elif status == PGRES_COPY_IN:
            if not self.send_copy_rows():
                raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
        elif status == PGRES_FATAL_ERROR and self.error is None:
            self.error = (diagnostic(res, PG_DIAG_SQLSTATE) or "",
                          diagnostic(res, PG_DIAG_MESSAGE_PRIMARY)
                          or PQresultErrorMessage(res).decode(errors="replace").strip())
            if PQstatus(self.conn) != CONNECTION_OK:
                raise ConnectionError(self.error[1])
        return False

    cdef bint after_simple_query(self) except -1:
        """Whether the batch is done, a simple query having ended."""
        if PQstatus(self.conn) != CONNECTION_OK:
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
        if self.mode == UNDOING:
            return True
        if self.error is not None:
            if self.in_transaction:
                self.undo()
                return False
            return True
        if not self.in_transaction:
            return True
        if not self.send_tail():
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())
        return False

    cdef object undo(self):
        self.mode = UNDOING
        if not PQsendQuery(self.conn, b"rollback") or not self.push():
            raise ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())

    cdef object finish(self):
        cdef Batch batch = self.flying
        cdef int64_t now
        cdef Py_ssize_t i
        self.flying = None
        self.mode = IDLE
        if self.error is not None:
            batch.again = True
            return "refused", batch, self.error[0], self.error[1]
        now = monotonic_ns()
        for i in range(batch.n_ops):
            self.histogram[bucket_of((now - batch.ops[i].added_ns) // 1000)] += 1
        self.n_flushes += 1
        self.n_transitions += batch.n_ops
        self.n_steps += batch.counts[OP_HISTORY]
        self.n_bytes += batch.nbytes
        return "committed", batch, self.at_us, self.times_of_again(batch) if batch.again else None

    cdef list times_of_again(self, Batch batch):
        cdef dict at = {kind: iter(times) for kind, times in self.times_read.items()}
        cdef list found = []
        cdef Py_ssize_t i
        for i in range(batch.n_ops):
            kind = batch.ops[i].kind
            time = next(at[kind], None) if kind in at else None
            found.append(self.at_us if time is None else time)
        return found

    def notified(self):
        """The payloads of notifications received since the last call, without repeats."""
        cdef PGnotify *note
        cdef set found = set()
        if self.conn == NULL:
            return found
        note = PQnotifies(self.conn)
        while note != NULL:
            found.add(note.extra.decode(errors="replace"))
            PQfreemem(note)
            note = PQnotifies(self.conn)
        return found

    def stats(self, bint reset=False):
        """Counters and latencies since the start, or since the last reset.

        Latency runs from a transition being added to its commit being known here.
        """
        found = {
            "transitions": self.n_transitions, "history_rows": self.n_steps, "flushes": self.n_flushes,
            "copies": self.n_copies, "bytes": self.n_bytes,
            **quantiles_ms(self.histogram, self.n_transitions),
        }
        if reset:
            memset(self.histogram, 0, sizeof(self.histogram))
            self.n_transitions = self.n_steps = self.n_flushes = self.n_copies = self.n_bytes = 0
        return found


cdef object diagnostic(PGresult *res, int field):
    cdef const char *text = PQresultErrorField(res, field)
    return None if text == NULL else text.decode(errors="replace")


cdef list times_of(PGresult *res):
    cdef int row
    return [None if PQgetisnull(res, row, 0) else get_i64(PQgetvalue(res, row, 0)) + PG_EPOCH_US
            for row in range(PQntuples(res))]


cdef int array_header(Buffer *b, int element_type, Py_ssize_t n) except -1 nogil:
    # Binary form of a one-dimensional array: dimensions, has-nulls flag, element type, length, lower bound.
    b.size = 0
    put_i32(b, 1)
    put_i32(b, 0)
    put_i32(b, element_type)
    put_i32(b, <int32_t> n)
    return put_i32(b, 1)
