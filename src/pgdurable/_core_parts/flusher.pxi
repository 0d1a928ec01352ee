# The flusher: one connection, one batch filling, at most one batch flying.

cdef enum Mode:
    CLOSED = 0
    IDLE = 1
    PIPELINE = 2       # fence, inserts, releases, deletes, sync: one round trip
    COPYING = 3        # a simple query with fence and COPY, one transaction
    TAIL = 4           # after COPY: releases, deletes, commit, in a pipeline
    UNDOING = 5        # rolling back a COPY transaction that failed

cdef char *COPY_HEADER = b"PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0"


@cython.final
cdef class Flusher:
    """Sends batches over one connection, without blocking.

    Args:
        statements: texts of sql/queries/flush.sql by name, for one schema.
        copy_from: history or instance rows from which on a batch goes by COPY rather than as one pipeline.
    """

    cdef Wire wire
    cdef Mode mode
    cdef Batch filling
    cdef Batch flying
    cdef dict statements
    cdef public Py_ssize_t copy_from
    cdef int64_t worker
    cdef bint fenced
    cdef Columns columns
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
        self.statements = {name: text.encode() for name, text in statements.items()}
        self.copy_from = copy_from
        self.wire = Wire()
        self.columns = Columns()
        self.filling = Batch()
        self.mode = CLOSED

    def __dealloc__(self):
        global live_flushers
        live_flushers -= 1

    # -- filling -------------------------------------------------------------------------------------------

    def add_history(self, bytes instance_id, int32_t event_id, object seq, object fingerprint,
                    object elapsed_ms, object attempt, str kind, str name, bytes payload, bytes error,
                    object tag, int64_t event_seq=-1):
        """Adds a history row, and with `event_seq` the removal of the event it came from.

        `payload` and `error` are JSON texts, checked by the caller; None is SQL null in every nullable column.
        """
        self.filling.add_history(instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload,
                                 error, tag, event_seq)

    def add_instance(self, bytes instance_id, str workflow, str version, str status, str queue, object owner,
                     bytes input, object tag):
        """Adds a new instance. `owner` None: whoever claims it; else the worker that runs it from the start."""
        self.filling.add_instance(instance_id, workflow, version, status, queue, owner, input, tag)

    def add_release(self, bytes instance_id, str status, bytes output, bytes error, object wake_at_us, object tag):
        """Ends this worker's ownership of an instance: it completed, failed, is parked or paused.

        `wake_at_us`: when a parked instance wants to run again, in microseconds since 1970; None: on an event.
        """
        self.filling.add_release(instance_id, status, output, error, wake_at_us, tag)

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
        cdef Wire wire = self.wire
        self.close()
        wire.connect(conninfo)
        self.fenced = worker is not None
        self.worker = worker if worker is not None else 0
        try:
            for command in setup:
                wire.run(command)
            for name, text in self.statements.items():
                if not name.startswith("copy_"):
                    wire.prepare(b"pgd_" + name.encode(), text)
            wire.prepare(b"pgd_now", b"select now()")
            wire.prepare(b"pgd_commit", b"commit")
        except BaseException:
            self.close()
            raise
        PQsetnonblocking(wire.conn, 1)
        self.mode = IDLE

    def close(self):
        """Closes the connection at once. Returns the batch that was flying, its fate unknown, or None."""
        cdef Batch batch = self.flying
        self.wire.close()
        self.mode = CLOSED
        self.flying = None
        if batch is not None:
            batch.again = True
        return batch

    @property
    def fileno(self):
        """The socket to watch, or -1."""
        return PQsocket(self.wire.conn) if self.wire.conn != NULL else -1

    @property
    def backend_pid(self):
        """Process id of the server's side of the connection, or None."""
        return PQbackendPID(self.wire.conn) if self.wire.conn != NULL else None

    @property
    def connected(self):
        """Whether there is a connection to send on."""
        return self.mode != CLOSED

    @property
    def idle(self):
        """Whether a batch can be sent now."""
        return self.mode == IDLE

    @property
    def wants_write(self):
        """Whether the socket must be watched for writing, and `ready` called then."""
        return self.wire.want_write

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
        if self.wire.pid != getpid():
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
        if not ok or not self.wire.push():
            raise self.wire.error()

    cdef bint send_pipeline(self, Batch batch) except -1:
        cdef bytes suffix = b"_again" if batch.again else b""
        self.mode = PIPELINE
        if not PQenterPipelineMode(self.wire.conn) or not self.send_fence():
            return False
        if batch.counts[OP_INSTANCE] and not self.send_rows(
                batch, OP_INSTANCE, b"pgd_insert_instances" + suffix, INSTANCE_COLUMNS, INSTANCE_TYPES):
            return False
        if batch.again and batch.counts[OP_INSTANCE] and not self.wire.execute(
                b"pgd_read_instances", self.columns, 1):
            return False
        if batch.counts[OP_HISTORY] and not self.send_rows(
                batch, OP_HISTORY, b"pgd_insert_history" + suffix, HISTORY_COLUMNS, HISTORY_TYPES):
            return False
        if batch.again and batch.counts[OP_HISTORY] and not self.wire.execute(
                b"pgd_read_history", self.columns, 2):
            return False
        if not self.send_rest(batch):
            return False
        return PQpipelineSync(self.wire.conn) == 1

    cdef bint send_fence(self) except -1:
        if not self.fenced:
            return self.wire.execute(b"pgd_now", self.columns, 0)
        self.columns.set_worker(self.worker)
        return self.wire.execute(b"pgd_fence", self.columns, 1)

    cdef bint send_rows(self, Batch batch, int kind, bytes statement, int n_columns, int *types) except -1:
        self.columns.set_rows(batch, kind, n_columns, types, 0)
        return self.wire.execute(statement, self.columns, n_columns)

    cdef bint send_rest(self, Batch batch) except -1:
        """Releases and consumed events."""
        if batch.counts[OP_RELEASE]:
            self.columns.set_worker(self.worker)
            self.columns.set_rows(batch, OP_RELEASE, RELEASE_COLUMNS, RELEASE_TYPES, 1)
            if not self.wire.execute(b"pgd_release_instances", self.columns, 1 + RELEASE_COLUMNS):
                return False
        if batch.n_events:
            self.columns.set_events(batch)
            if not self.wire.execute(b"pgd_delete_events", self.columns, 1):
                return False
        return True

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
        return PQsendQuery(self.wire.conn, c_text) == 1

    cdef bint send_copy_rows(self) except -1:
        cdef Buffer *rows = &self.flying.rows[self.copy_stage]
        cdef int ok
        self.copy_stage = OP_HISTORY
        with nogil:
            ok = PQputCopyData(self.wire.conn, COPY_HEADER, 19)
            if ok == 1:
                ok = PQputCopyData(self.wire.conn, rows.data, <int> rows.size)
            if ok == 1:
                ok = PQputCopyData(self.wire.conn, b"\xff\xff", 2)
            if ok == 1:
                ok = PQputCopyEnd(self.wire.conn, NULL)
        return ok == 1 and self.wire.push()

    cdef bint send_tail(self) except -1:
        self.mode = TAIL
        if not PQenterPipelineMode(self.wire.conn) or not self.send_rest(self.flying):
            return False
        if not self.wire.execute(b"pgd_commit", self.columns, 0):
            return False
        return PQpipelineSync(self.wire.conn) == 1 and self.wire.push()

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
        if self.wire.conn == NULL:
            raise ConnectionError("there is no connection")
        with nogil:
            ok = PQconsumeInput(self.wire.conn)
        if not ok or (self.wire.want_write and not self.wire.push()):
            raise self.wire.error()
        if self.flying is None:
            self.wire.check_alive()
            return None
        while not PQisBusy(self.wire.conn):
            res = PQgetResult(self.wire.conn)
            if res == NULL:
                if self.mode == COPYING or self.mode == UNDOING:
                    if not self.after_simple_query():
                        continue
                    return self.finish()
                self.wire.check_alive()
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
            PQexitPipelineMode(self.wire.conn)
            if self.error is not None and PQtransactionStatus(self.wire.conn) == PQTRANS_INERROR:
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
                raise self.wire.error()
        elif status == PGRES_FATAL_ERROR and self.error is None:
            self.error = (diagnostic(res, PG_DIAG_SQLSTATE) or "",
                          diagnostic(res, PG_DIAG_MESSAGE_PRIMARY)
                          or PQresultErrorMessage(res).decode(errors="replace").strip())
            if PQstatus(self.wire.conn) != CONNECTION_OK:
                raise ConnectionError(self.error[1])
        return False

    cdef bint after_simple_query(self) except -1:
        """Whether the batch is done, a simple query having ended."""
        self.wire.check_alive()
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
            raise self.wire.error()
        return False

    cdef object undo(self):
        self.mode = UNDOING
        if not PQsendQuery(self.wire.conn, b"rollback") or not self.wire.push():
            raise self.wire.error()

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
        return self.wire.notified()

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
