# A batch on its way: what is sent when, and what the answers mean.

cdef enum Mode:
    CLOSED = 0
    IDLE = 1
    PIPELINE = 2       # fence, inserts, writes, releases, deletes, sync: one round trip
    COPYING = 3        # a simple query with fence and COPY, one transaction
    TAIL = 4           # after COPY: writes, releases, deletes, commit, in a pipeline
    UNDOING = 5        # rolling back a COPY transaction that failed

cdef enum:
    # Rows are handed to libpq in pieces of this size, as fast as the socket takes them: it copies what it is given.
    COPY_PIECE = 65536
    # Every array of a pipeline is less than the rows together, and has to stay below 1 GB.
    MOST_PIPELINE_BYTES = 0x3fff0000
    # A server farther away than this is over a network. There a batch goes by COPY when that pays for its further round
    # trips: per row it saves at most so much (measured at 128 to 1,024 rows: 0 to 0.5 us).
    NEAR_NS = 1000000
    COPY_GAIN_NS = 500

cdef char *TOO_LARGE = b"do $$ begin raise program_limit_exceeded using message = 'a batch of 1 GB or more'; end $$"


@cython.final
cdef class Flight:
    """The way of one batch at a time over a connection: as a pipeline or by COPY, to its commit or refusal."""

    cdef Wire wire
    cdef Columns columns
    cdef dict statements
    cdef dict texts        # of what is prepared, by name: for a connection that keeps nothing prepared
    cdef bytes fence_text
    cdef int64_t worker
    cdef bint fenced
    cdef bint prepared
    cdef Mode mode
    cdef Batch batch
    cdef Py_ssize_t pipeline_limit
    cdef bint in_transaction
    cdef int copy_stage
    cdef Py_ssize_t copied
    cdef Py_ssize_t to_copy
    cdef int n_expected, n_results, n_tuples, rows_expected, n_copy_in, n_to_copy, n_nulls
    cdef int n_heads   # results with rows before those of the rows sent: the time, and the look at the fence
    cdef int64_t at_us
    cdef tuple error
    cdef dict times_read

    def __cinit__(self, dict statements):
        self.statements = statements
        self.texts = {
            b"pgd_" + name.encode(): text for name, text in statements.items() if not name.startswith("copy_")}
        self.texts[b"pgd_now"] = b"select now()"
        self.texts[b"pgd_commit"] = b"commit"
        self.wire = Wire()
        self.columns = Columns()
        self.mode = CLOSED

    cdef list connect(self, str conninfo, object worker, list setup, bint prepared, double answer_s):
        cdef Wire wire = self.wire
        cdef list found
        self.prepared = prepared
        self.fenced = worker is not None
        self.worker = worker if worker is not None else 0
        wire.connect(conninfo, answer_s)
        found = [wire.run(command) for command in setup]
        if prepared:
            for name, text in self.texts.items():
                wire.prepare(name, text)
        else:
            wire.measure()
        self.fence_text = b"select (extract(epoch from at) * 1000000::numeric)::bigint from " + (
            self.statements["fence"].replace(b"$1", str(self.worker).encode()).replace(b"select ", b"", 1)
            if self.fenced else b"now()") + b" as at; "
        self.mode = IDLE
        return found

    cdef Batch disconnect(self):
        """Returns the batch that was flying, or None."""
        cdef Batch batch = self.batch
        self.wire.close()
        self.mode = CLOSED
        self.batch = None
        self.to_copy = self.copied = 0
        if batch is not None:
            batch.again = True
        return batch

    # -- sending -------------------------------------------------------------------------------------------

    cdef object send(self, Batch batch, bint by_copy):
        cdef bint ok
        self.batch = batch
        self.error = None
        self.at_us = 0
        self.times_read = {}
        self.n_expected = self.n_results = self.n_tuples = self.n_nulls = 0
        self.rows_expected = self.n_copy_in = self.n_to_copy = 0
        self.n_heads = 1
        if by_copy:
            ok = self.send_copy(batch)
        else:
            ok = self.send_pipeline(batch)
            self.columns.forget()
        if not ok or not self.wire.push():
            raise self.wire.error()

    cdef bint execute(self, const char *statement, int n) except -1:
        self.n_expected += 1
        if self.prepared:
            return self.wire.execute(statement, self.columns, n)
        return self.wire.execute_text(<const char *> <bytes> self.texts[<bytes> statement], self.columns, n)

    cdef bint read(self, const char *statement, int n) except -1:
        """As execute, for a statement that gives rows."""
        self.rows_expected |= 1 << self.n_expected
        return self.execute(statement, n)

    cdef bint send_pipeline(self, Batch batch) except -1:
        cdef bint again = batch.again
        self.mode = PIPELINE
        if not PQenterPipelineMode(self.wire.conn):
            return False
        if batch.nbytes > self.pipeline_limit:
            # Refused as the server would refuse it, for who sent it to split it.
            self.n_expected += 1
            return PQsendQueryParams(self.wire.conn, TOO_LARGE, 0, NULL, NULL, NULL, NULL, 1) == 1 \
                and PQpipelineSync(self.wire.conn) == 1
        if self.fenced and not again and batch.n_ops and batch.counts[OP_HISTORY] == batch.n_ops and not batch.n_events:
            return self.send_history_alone(batch) and PQpipelineSync(self.wire.conn) == 1
        if not self.send_fence():
            return False
        if batch.counts[OP_INSTANCE]:
            self.columns.set_rows(batch, OP_INSTANCE, INSTANCE_COLUMNS, INSTANCE_TYPES, 0)
            if not self.execute(b"pgd_insert_instances_again" if again else b"pgd_insert_instances", INSTANCE_COLUMNS):
                return False
            if again and not self.read(b"pgd_read_instances", 1):
                return False
        if batch.counts[OP_HISTORY]:
            self.columns.set_rows(batch, OP_HISTORY, HISTORY_COLUMNS, HISTORY_TYPES, 0)
            if not self.execute(b"pgd_insert_history_again" if again else b"pgd_insert_history", HISTORY_COLUMNS):
                return False
            if again and not self.read(b"pgd_read_history", 2):
                return False
        return self.send_rest(batch) and PQpipelineSync(self.wire.conn) == 1

    cdef bint send_fence(self) except -1:
        if not self.fenced:
            return self.read(b"pgd_now", 0)
        self.columns.set_worker(self.worker)
        self.n_heads = 2
        return self.read(b"pgd_fence_lock", 1) and self.read(b"pgd_fence_look", 1)

    cdef bint send_history_alone(self, Batch batch) except -1:
        """What an idle engine sends most: the look at the fence is part of the insert."""
        self.columns.set_worker(self.worker)
        self.columns.set_rows(batch, OP_HISTORY, HISTORY_COLUMNS, HISTORY_TYPES, 1)
        return self.read(b"pgd_fence_lock", 1) and self.execute(b"pgd_insert_history_fenced", 1 + HISTORY_COLUMNS)

    cdef bint send_rest(self, Batch batch) except -1:
        """Rare writes, releases and consumed events."""
        if batch.counts[OP_WRITE]:
            self.columns.set_worker(self.worker)
            self.columns.set_rows(batch, OP_WRITE, WRITE_COLUMNS, WRITE_TYPES, 1)
            if not self.execute(b"pgd_apply_writes", 1 + WRITE_COLUMNS):
                return False
        if batch.counts[OP_RELEASE]:
            self.columns.set_worker(self.worker)
            self.columns.set_rows(batch, OP_RELEASE, RELEASE_COLUMNS, RELEASE_TYPES, 1)
            if not self.execute(b"pgd_release_instances", 1 + RELEASE_COLUMNS):
                return False
        if batch.n_events:
            self.columns.set_events(batch)
            if not self.execute(b"pgd_delete_events", 1):
                return False
        return True

    cdef bint send_copy(self, Batch batch) except -1:
        # Without writes, releases and events the simple query is a transaction by itself, commit included.
        cdef bytes text = self.fence_text
        self.mode = COPYING
        self.n_to_copy = (batch.counts[OP_INSTANCE] > 0) + (batch.counts[OP_HISTORY] > 0)
        self.n_expected = 1 + self.n_to_copy
        self.in_transaction = batch.has_rest()
        if self.in_transaction:
            text = b"begin; " + text
            self.n_expected += 1
        self.rows_expected = 2 if self.in_transaction else 1
        self.copy_stage = OP_HISTORY
        if batch.counts[OP_INSTANCE]:
            self.copy_stage = OP_INSTANCE
            text += self.statements["copy_instances"] + b"; "
        if batch.counts[OP_HISTORY]:
            text += self.statements["copy_history"]
        return PQsendQuery(self.wire.conn, <const char *> text) == 1

    cdef object begin_rows(self):
        """The server waits for the rows of one table."""
        cdef Batch batch = self.batch
        cdef Buffer *rows = &batch.memory.rows[self.copy_stage]
        self.n_copy_in += 1
        if self.mode != COPYING or self.n_copy_in > self.n_to_copy:
            raise nonsense("it asks for rows it was not going to be sent")
        memcpy(rows.data + rows.size, COPY_TRAILER, COPY_TRAILER_SIZE)  # there is room, see Batch.reserve
        self.copied = 0
        self.to_copy = rows.size + COPY_TRAILER_SIZE

    cdef bint send_rows(self) except -1:
        """Whether all rows of the table are in libpq's hands; else the socket is to become writable."""
        cdef const char *data = self.batch.memory.rows[self.copy_stage].data
        cdef Py_ssize_t piece
        cdef int ok
        while self.copied < self.to_copy:
            piece = min(self.to_copy - self.copied, <Py_ssize_t> COPY_PIECE)
            with nogil:
                ok = PQputCopyData(self.wire.conn, data + self.copied, <int> piece)
            if ok != 1 or not self.wire.push():
                raise self.wire.error()
            self.copied += piece
            if self.wire.want_write and self.copied < self.to_copy:
                return False
        if PQputCopyEnd(self.wire.conn, NULL) != 1 or not self.wire.push():
            raise self.wire.error()
        self.copied = self.to_copy = 0
        self.copy_stage = OP_HISTORY
        return True

    cdef bint send_tail(self) except -1:
        self.mode = TAIL
        self.n_expected = self.n_results = self.rows_expected = 0
        if not PQenterPipelineMode(self.wire.conn) or not self.send_rest(self.batch):
            return False
        self.columns.forget()
        return self.execute(b"pgd_commit", 0) and PQpipelineSync(self.wire.conn) == 1 and self.wire.push()

    # -- receiving -----------------------------------------------------------------------------------------

    cdef object take_in(self):
        """None while the batch is under way, else the outcome as `Flusher.ready` tells it."""
        cdef int ok
        cdef PGresult *res
        if self.wire.conn == NULL:
            raise ConnectionError("there is no connection")
        with nogil:
            ok = PQconsumeInput(self.wire.conn)
        if not ok or (self.wire.want_write and not self.wire.push()):
            raise self.wire.error()
        if self.batch is None:
            self.wire.check_alive()
            return None
        while True:
            if self.to_copy and not self.send_rows():
                return None
            if PQisBusy(self.wire.conn):
                return None
            res = PQgetResult(self.wire.conn)
            if res == NULL:
                if self.mode == COPYING or self.mode == UNDOING:
                    if self.after_simple_query():
                        return self.finish()
                    continue
                self.wire.check_alive()
                # One stands between the answers of two statements.
                self.n_nulls += 1
                if self.n_nulls > 1:
                    raise nonsense("it ends too early")
                continue
            self.n_nulls = 0
            try:
                if self.take_result(res):
                    return self.finish()
            finally:
                PQclear(res)

    cdef bint take_result(self, const PGresult *res) except -1:
        """Whether the batch is done."""
        cdef ExecStatusType status = PQresultStatus(res)
        if (status == PGRES_TUPLES_OK or status == PGRES_COMMAND_OK) and self.mode != UNDOING:
            if (self.rows_expected >> self.n_results & 1) != (status == PGRES_TUPLES_OK):
                raise nonsense("rows where there should be none, or none where there should be")
            self.n_results += 1
            if self.n_results > self.n_expected:
                raise nonsense("more results than statements")
            if status == PGRES_TUPLES_OK:
                self.take_rows(res)
        elif status == PGRES_PIPELINE_SYNC:
            PQexitPipelineMode(self.wire.conn)
            if self.mode != PIPELINE and self.mode != TAIL:
                raise nonsense("the end of a pipeline where there is none")
            if self.error is not None and PQtransactionStatus(self.wire.conn) != PQTRANS_IDLE:
                self.undo()
                return False
            return True
        elif status == PGRES_COPY_IN:
            self.begin_rows()
        elif status == PGRES_FATAL_ERROR:
            self.take_error(res)
        elif (status != PGRES_PIPELINE_ABORTED or self.error is None) and \
                (status != PGRES_COMMAND_OK or self.mode != UNDOING):
            raise nonsense(f"a result of kind {<int> status}")
        return False

    cdef int take_rows(self, const PGresult *res) except -1:
        self.n_tuples += 1
        if self.n_tuples <= self.n_heads and PQntuples(res) != 1:
            raise nonsense("no time where there should be one")
        if self.n_tuples == 1:
            # The fence or its lock, or now().
            if self.mode == COPYING:
                try:
                    self.at_us = int(PQgetvalue(res, 0, 0))
                except (ValueError, OverflowError):
                    raise nonsense("no time where there should be one") from None
            else:
                self.at_us = time_of(res, 0)
        elif self.n_tuples == 2 and self.n_heads == 2:
            time_of(res, 0)  # passed
        elif self.batch.again and self.n_tuples <= self.n_heads + 2:
            # Instances are read before history.
            kind = OP_INSTANCE if self.batch.counts[OP_INSTANCE] and self.n_tuples == self.n_heads + 1 else OP_HISTORY
            if PQntuples(res) != self.batch.counts[kind]:
                raise nonsense("times of other rows than were sent")
            self.times_read[kind] = times_of(res)
        else:
            raise nonsense("rows nobody asked for")
        return 0

    cdef int take_error(self, const PGresult *res) except -1:
        cdef const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED)
        if severity == NULL:
            severity = PQresultErrorField(res, PG_DIAG_SEVERITY)  # PgBouncer's own errors have this one only
        sqlstate = diagnostic(res, PG_DIAG_SQLSTATE)
        message = diagnostic(res, PG_DIAG_MESSAGE_PRIMARY) or \
            PQresultErrorMessage(res).decode(errors="replace").strip()
        # Only an error of the server's says that the transaction is undone; one that ends the session, or that libpq
        # has made up itself, says nothing about its fate.
        if PQstatus(self.wire.conn) != CONNECTION_OK or sqlstate is None or len(sqlstate) != 5 \
                or (severity != NULL and strcmp(severity, b"ERROR") != 0):
            raise ConnectionError(message)
        if self.error is None:
            self.error = (sqlstate, message)
        return 0

    cdef bint after_simple_query(self) except -1:
        """Whether the batch is done, a simple query having ended."""
        self.wire.check_alive()
        if self.error is not None:
            if PQtransactionStatus(self.wire.conn) == PQTRANS_IDLE:
                return True
            if self.mode == UNDOING:
                raise nonsense("it does not roll back")
            self.undo()
            return False
        self.check_answered()
        if not self.in_transaction:
            return True
        if not self.send_tail():
            raise self.wire.error()
        return False

    cdef int check_answered(self) except -1:
        """Every statement has had its answer: only then is a commit believed."""
        if self.n_results != self.n_expected or self.n_copy_in != self.n_to_copy:
            raise nonsense(f"{self.n_results} results of {self.n_expected} statements")
        return 0

    cdef object undo(self):
        self.mode = UNDOING
        if not PQsendQuery(self.wire.conn, b"rollback") or not self.wire.push():
            raise self.wire.error()

    cdef object finish(self):
        cdef Batch batch = self.batch
        if self.error is None:
            self.check_answered()
            if PQtransactionStatus(self.wire.conn) != PQTRANS_IDLE:
                raise nonsense("it has not committed")
        self.batch = None
        self.mode = IDLE
        if self.error is not None:
            batch.again = True
            return "refused", batch, self.error[0], self.error[1]
        return "committed", batch, self.at_us, self.times_of_again(batch) if batch.again else None

    cdef list times_of_again(self, Batch batch):
        cdef dict at = {kind: iter(times) for kind, times in self.times_read.items()}
        cdef list found = []
        cdef Py_ssize_t i
        for i in range(batch.n_ops):
            kind = batch.ops()[i].kind
            time = next(at[kind], None) if kind in at else None
            found.append(self.at_us if time is None else time)
        return found
