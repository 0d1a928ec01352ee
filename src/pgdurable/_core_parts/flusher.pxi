# The flusher: one connection, one batch filling, at most one batch flying.

cdef enum:
    ASIDE_HEAD = 9         # {"hash":"
    ASIDE_HASH = 32
    ASIDE_FRAME = 51       # what a write's body has around the payload


cdef bytes marker_of(bytes body):
    """What stands in the row instead of the payload that this write keeps."""
    return b'{"$pgdurable:aside":{"hash":"%s","size":%d}}' % (
        body[ASIDE_HEAD:ASIDE_HEAD + ASIDE_HASH], len(body) - ASIDE_FRAME)


@cython.final
cdef class Flusher:
    """Sends batches over one connection, without blocking.

    It belongs to one thread at a time: a second one in it at the same moment gets RuntimeError, and so does a forked
    child, whose copy is of no use. Only adding may go on in one thread while another connects.

    Args:
        statements: texts of sql/queries/flush.sql by name, for one schema.
        aside_over: payloads of more bytes are kept in a table of their own, an object that says where stands in the
            row; 0: none are. `aside_tag`: told of the fate of such a write, which is that of its row.
        copy_from: history or instance rows from which on a batch goes by COPY rather than as one pipeline; over a
            network later, where COPY has to pay for its further round trips. 1: always.
    """

    cdef Flight flight
    cdef Batch filling
    cdef Spares spares
    cdef public Py_ssize_t copy_from
    cdef public Py_ssize_t pipeline_limit
    cdef public Py_ssize_t aside_over
    cdef public object aside_tag
    cdef int busy
    cdef int adding
    cdef int made_after
    cdef int64_t sent_ns
    cdef int64_t histogram[BUCKETS]
    cdef int64_t n_transitions, n_steps, n_flushes, n_copies, n_bytes

    def __cinit__(self, dict statements, Py_ssize_t copy_from=256):
        atomic_add(&live_flushers, 1)
        self.flight = Flight({name: text.encode() for name, text in statements.items()})
        self.copy_from = copy_from
        self.pipeline_limit = MOST_PIPELINE_BYTES
        self.spares = Spares()
        self.filling = new_batch(self.spares)
        self.made_after = forks

    def __dealloc__(self):
        atomic_add(&live_flushers, -1)

    cdef int enter(self) except -1:
        check_process(self.made_after)
        if not atomic_enter(&self.busy):
            raise RuntimeError("another thread is in this flusher, which belongs to one thread at a time")
        return 0

    cdef int begin_adding(self) except -1:
        check_process(self.made_after)
        if not atomic_enter_unlocked(&self.adding):
            raise RuntimeError("another thread is adding to this flusher, which belongs to one thread at a time")
        return 0

    # -- filling -------------------------------------------------------------------------------------------

    cdef inline bytes body_aside(self, bytes payload):
        """The body of the write that keeps a payload apart, or None: it is small enough for its row."""
        if self.aside_over == 0 or payload is None or len(payload) <= self.aside_over:
            return None
        return b'{"hash":"%s","data":%s}' % (sha256(payload).hexdigest()[:32].encode(), payload)

    def add_history(self, bytes instance_id, int32_t event_id, object seq, object fingerprint,
                    object elapsed_ms, object attempt, str kind, str name, bytes payload, bytes error,
                    object tag, int64_t event_seq=-1):
        """Adds a history row, and with `event_seq` the removal of the event it came from.

        `payload` and `error` are JSON texts, checked by the caller; None is SQL null in every nullable column.
        """
        cdef bytes aside = self.body_aside(payload)
        self.begin_adding()
        try:
            self.filling.add_history(instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name,
                                     payload if aside is None else marker_of(aside), error, tag, event_seq)
            if aside is not None:
                self.filling.add_write(instance_id, "payload", 0, aside, self.aside_tag, True)
        finally:
            atomic_leave_unlocked(&self.adding)

    def add_instance(self, bytes instance_id, str workflow, str version, str status, str queue, object owner,
                     bytes input, object tag):
        """Adds a new instance. `owner` None: whoever claims it; else the worker that runs it from the start."""
        cdef bytes aside = self.body_aside(input)
        self.begin_adding()
        try:
            self.filling.add_instance(instance_id, workflow, version, status, queue, owner,
                                      input if aside is None else marker_of(aside), tag)
            if aside is not None:
                self.filling.add_write(instance_id, "payload", 0, aside, self.aside_tag, True)
        finally:
            atomic_leave_unlocked(&self.adding)

    def add_release(self, bytes instance_id, str status, bytes output, bytes error, object wake_at_us, object tag):
        """Ends this worker's ownership of an instance: it completed, failed, is parked or paused.

        `wake_at_us`: when a parked instance wants to run again, in microseconds since 1970; None: on an event.
        """
        cdef bytes aside = self.body_aside(output)
        self.begin_adding()
        try:
            self.filling.add_release(instance_id, status, output if aside is None else marker_of(aside), error,
                                     wake_at_us, tag)
            if aside is not None:
                self.filling.add_write(instance_id, "payload", 0, aside, self.aside_tag, True)
        finally:
            atomic_leave_unlocked(&self.adding)

    def add_write(self, bytes instance_id, str kind, int32_t place, bytes body, object tag, bint joined=False):
        """Adds a write that is seldom, of a kind the schema's procedure `apply_writes` knows.

        `body` is a JSON text, checked by the caller, or None. `joined`: it commits with the row added just before, or
        not at all, also when the batch is refused for another row's sake.
        """
        self.begin_adding()
        try:
            self.filling.add_write(instance_id, kind, place, body, tag, joined)
        finally:
            atomic_leave_unlocked(&self.adding)

    def take(self):
        """The batch filled so far; a new one fills from now on."""
        cdef Batch batch
        self.begin_adding()
        try:
            batch = self.filling
            self.filling = new_batch(self.spares)
            return batch
        finally:
            atomic_leave_unlocked(&self.adding)

    @property
    def waiting(self):
        """Transitions in the filling batch."""
        return self.filling.n_ops

    @property
    def waiting_bytes(self):
        """Encoded bytes in the filling batch."""
        return self.filling.nbytes

    @property
    def unanswered(self):
        """(transitions, encoded bytes) in the filling and the flying batch; what is joined to another is none."""
        cdef Batch flying = self.flight.batch
        if flying is None:
            return self.filling.n_ops - self.filling.n_joined, self.filling.nbytes
        return (
            self.filling.n_ops - self.filling.n_joined + flying.n_ops - flying.n_joined,
            self.filling.nbytes + flying.nbytes,
        )

    # -- connection ----------------------------------------------------------------------------------------

    def connect(self, str conninfo, object worker, list setup, bint prepared=True, double answer_s=30.0):
        """Connects, and prepares the statements unless told otherwise.

        Blocks, with the GIL released; for a thread of its own.

        Args:
            conninfo: libpq connection string or URI; its timeouts hold.
            worker: the worker whose fence every batch passes; None for a client's batches, which have none.
            setup: SQL commands to run once on the connection.
            prepared: whether what is prepared stays so. False: every flush brings its statements' texts along, for a
                pooler that gives each transaction another session.
            answer_s: seconds, once connected, that all of this may take.
        Returns:
            The first value that each command of `setup` gave, as text, or None.
        Raises:
            ConnectionError: with libpq's text.
        """
        self.enter()
        try:
            self.flight.disconnect()
            return self.flight.connect(conninfo, worker, setup, prepared, answer_s)
        except BaseException:
            self.flight.disconnect()
            raise
        finally:
            atomic_leave(&self.busy)

    def trace(self, str path):
        """Writes libpq's trace of this connection, every message of it, to a file until it is closed; for tests."""
        self.enter()
        try:
            self.flight.wire.trace(path)
        finally:
            atomic_leave(&self.busy)

    def close(self):
        """Closes the connection at once. Returns the batch that was flying, its fate unknown, or None."""
        if self.made_after != forks:
            return self.flight.disconnect()  # of a copy: nothing of the parent's is touched
        self.enter()
        try:
            return self.flight.disconnect()
        finally:
            atomic_leave(&self.busy)

    @property
    def fileno(self):
        """The socket to watch, or -1."""
        return self.flight.wire.socket

    @property
    def backend_pid(self):
        """Process id of the server's side of the connection, or None."""
        return PQbackendPID(self.flight.wire.conn) if self.flight.wire.conn != NULL else None

    @property
    def round_trip_ms(self):
        """The shortest round trip to the server seen while connecting, some of it the server's work; 0.0 before."""
        return self.flight.wire.round_trip_ns / 1e6

    @property
    def connected(self):
        """Whether there is a connection to send on."""
        return self.flight.mode != CLOSED

    @property
    def idle(self):
        """Whether a batch can be sent now."""
        return self.flight.mode == IDLE

    @property
    def wants_write(self):
        """Whether the socket must be watched for writing, and `ready` called then."""
        return self.flight.wire.want_write

    @property
    def flying_for_s(self):
        """Seconds since the flying batch was sent; 0.0 when none flies."""
        if self.flight.batch is None:
            return 0.0
        return (monotonic_ns() - self.sent_ns) / 1e9

    # -- sending -------------------------------------------------------------------------------------------

    def send(self, Batch batch not None):
        """Begins to send a batch. Raises ConnectionError when the connection is gone (the batch then flies)."""
        cdef bint by_copy
        self.enter()
        try:
            if self.flight.mode != IDLE:
                raise RuntimeError("a batch is already flying, or there is no connection")
            self.sent_ns = monotonic_ns()
            by_copy = self.by_copy(batch)
            self.n_copies += by_copy
            self.flight.pipeline_limit = self.pipeline_limit
            self.flight.send(batch, by_copy)
        finally:
            atomic_leave(&self.busy)

    cdef bint by_copy(self, Batch batch):
        cdef Py_ssize_t rows = max(batch.counts[OP_HISTORY], batch.counts[OP_INSTANCE])
        cdef int trips
        if batch.again or rows == 0:
            return False
        if batch.nbytes > self.pipeline_limit:
            return True
        if rows < self.copy_from:
            return False
        if self.flight.wire.round_trip_ns < NEAR_NS or self.copy_from <= 1:
            return True
        # A pipeline is one round trip. COPY waits for the server's permission, for each table, and before the rest.
        trips = (batch.counts[OP_HISTORY] > 0) + (batch.counts[OP_INSTANCE] > 0)
        trips += batch.has_rest()
        return rows * COPY_GAIN_NS >= trips * self.flight.wire.round_trip_ns

    # -- receiving -----------------------------------------------------------------------------------------

    def look(self, int other, double longest_s):
        """Looks at the socket, never sleeping, until the server says something; for at most so many seconds.

        Ends early when the descriptor `other` becomes readable. Other threads run meanwhile. Returns whether `ready`
        is to be called.
        """
        cdef pollfd fds[2]
        cdef int64_t until = monotonic_ns() + <int64_t> (longest_s * 1e9)
        cdef int n = 0
        self.enter()
        try:
            fds[0].fd = self.flight.wire.socket  # below 0 it is passed over
            fds[1].fd = other
            fds[0].events = fds[1].events = POLLIN
            fds[0].revents = 0
            with nogil:
                while n == 0:
                    n = poll(fds, 2, 0)
                    if monotonic_ns() >= until:
                        break
            return n > 0 and fds[0].revents != 0
        finally:
            atomic_leave(&self.busy)

    def ready(self):
        """Takes in what the server sent; call it when the socket is readable, or writable and `wants_write`.

        Returns None while the batch is under way, else a tuple: ``("committed", batch, at_us, times)`` with the
        transaction's time in microseconds since 1970, or ``("refused", batch, sqlstate, message)``. `times` is None,
        or for a batch sent again one time per transition: rows that an earlier attempt committed keep their time.
        Raises ConnectionError when the connection is gone, or the server's answer makes no sense; `close` then gives
        back the batch, whose fate is not known.
        """
        self.enter()
        try:
            done = self.flight.take_in()
            if done is not None and done[0] == "committed":
                self.count(<Batch> done[1])
            return done
        finally:
            atomic_leave(&self.busy)

    cdef object count(self, Batch batch):
        """A batch has committed."""
        cdef int64_t now = monotonic_ns()
        cdef Op *ops = batch.ops()
        cdef Py_ssize_t i
        for i in range(batch.n_ops):
            self.histogram[bucket_of((now - ops[i].added_ns) // 1000)] += 1
        self.n_flushes += 1
        self.n_transitions += batch.n_ops
        self.n_steps += batch.counts[OP_HISTORY]
        self.n_bytes += batch.nbytes

    def notified(self):
        """The payloads of notifications received since the last call, without repeats."""
        self.enter()
        try:
            return self.flight.wire.notified()
        finally:
            atomic_leave(&self.busy)

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
