# The connection: what is the same whatever is sent over it.

cdef extern from "pthread.h":
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

# How many forks lie between this process and the one that loaded the core.
cdef int forks = 0


cdef void on_fork() noexcept nogil:
    global forks
    forks += 1


pthread_atfork(NULL, NULL, on_fork)


cdef int check_process(int made_after) except -1:
    """Raises RuntimeError in a forked child: what it has is a copy, and the connection is its parent's."""
    if made_after != forks:
        raise RuntimeError("this connection belongs to the parent process; open an engine of your own after fork")
    return 0


cdef void drop_notice(void *arg, const PGresult *res) noexcept nogil:
    pass  # libpq would write it to stderr


@cython.final
cdef class Wire:
    """One libpq connection. Connecting and its set-up block, for so long at most; everything after does not."""

    cdef PGconn *conn
    cdef int made_after
    cdef int socket
    cdef int64_t round_trip_ns
    cdef double answer_s
    cdef int64_t until     # when the set-up has to be done
    cdef bint want_write
    cdef FILE *tracing

    def __cinit__(self):
        self.socket = -1

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        if self.conn != NULL:
            atomic_add(&live_connections, -1)
            if self.made_after == forks:
                with nogil:
                    PQfinish(self.conn)
                    if self.tracing != NULL:
                        fclose(self.tracing)
                self.tracing = NULL
            else:
                # In a forked child the session is the parent's: saying goodbye would end it. Only our copy of the
                # socket goes, so that the server sees the parent's end.
                close_descriptor(PQsocket(self.conn))
            self.conn = NULL
        self.socket = -1
        self.want_write = False

    cdef object connect(self, str conninfo, double answer_s):
        cdef bytes info = conninfo.encode()
        cdef const char *c_info = info
        cdef PGconn *conn
        self.close()
        with nogil:
            conn = PQconnectdb(c_info)
        if conn == NULL:
            raise MemoryError("libpq gave no connection")
        atomic_add(&live_connections, 1)
        self.conn = conn
        self.made_after = forks
        if PQstatus(conn) != CONNECTION_OK:
            error = self.error()
            self.close()
            raise error
        PQsetNoticeReceiver(conn, drop_notice, NULL)
        self.socket = PQsocket(conn)
        self.round_trip_ns = 0
        self.answer_s = answer_s
        self.until = monotonic_ns() + <int64_t> (answer_s * 1e9)
        if PQsetnonblocking(conn, 1) != 0:
            raise self.error()

    cdef object trace(self, str path):
        cdef bytes name = path.encode()
        if self.conn == NULL or self.tracing != NULL:
            raise ValueError("there is no connection, or it is traced already")
        self.tracing = fopen(name, b"w")
        if self.tracing == NULL:
            raise OSError(f"cannot write {path}")
        PQtrace(self.conn, self.tracing)
        PQsetTraceFlags(self.conn, PQTRACE_SUPPRESS_TIMESTAMPS)

    cdef object error(self):
        return ConnectionError(PQerrorMessage(self.conn).decode(errors="replace").strip())

    cdef object check_alive(self):
        if PQstatus(self.conn) != CONNECTION_OK:
            raise self.error()

    cdef object run(self, str command):
        """The first value a command gives, as text, or None."""
        cdef bytes text = command.encode()
        cdef PGresult *res = self.answer(PQsendQuery(self.conn, <const char *> text))
        try:
            self.expect(res, "set-up of the connection failed")
            if PQntuples(res) and PQnfields(res) and not PQgetisnull(res, 0, 0):
                return PQgetvalue(res, 0, 0).decode(errors="replace")
            return None
        finally:
            PQclear(res)

    cdef object prepare(self, bytes name, bytes text):
        cdef int64_t begun = monotonic_ns()
        cdef PGresult *res = self.answer(PQsendPrepare(self.conn, <const char *> name, <const char *> text, 0, NULL))
        self.round_trip(begun)
        try:
            self.expect(res, "preparing a statement failed")
        finally:
            PQclear(res)

    cdef object measure(self):
        """Finds out how far the server is, where nothing is prepared."""
        cdef int64_t begun
        for _ in range(3):
            begun = monotonic_ns()
            self.run("select 1")
            self.round_trip(begun)

    cdef void round_trip(self, int64_t begun) noexcept:
        cdef int64_t took = monotonic_ns() - begun
        if self.round_trip_ns == 0 or took < self.round_trip_ns:
            self.round_trip_ns = took  # the shortest of several: the least of it was the server's work

    cdef PGresult *answer(self, int sent) except NULL:
        """The last result of what was sent, waited for until the set-up has to be done."""
        cdef PGresult *last = NULL
        cdef PGresult *res
        if not sent:
            raise self.error()
        try:
            while True:
                self.await_result()
                res = PQgetResult(self.conn)
                if res == NULL:
                    break
                PQclear(last)
                last = res
                if PQresultStatus(res) == PGRES_COPY_IN or PQresultStatus(res) == PGRES_COPY_OUT:
                    break  # there would be no end to them
        except BaseException:
            PQclear(last)
            raise
        if last == NULL:
            raise self.error()
        return last

    cdef int await_result(self) except -1:
        """Waits until PQgetResult does not block."""
        cdef pollfd fds[1]
        cdef int left, n
        cdef int64_t wait_ms
        while True:
            left = PQflush(self.conn)
            if left < 0:
                raise self.error()
            if not PQisBusy(self.conn):
                return 0
            wait_ms = (self.until - monotonic_ns()) // 1000000
            if wait_ms <= 0:
                raise ConnectionError(f"the server gave no answer within {self.answer_s:g} s of connecting")
            fds[0].fd = self.socket
            fds[0].events = POLLIN | POLLOUT if left else POLLIN
            fds[0].revents = 0
            with nogil:
                n = poll(fds, 1, <int> min(wait_ms + 1, <int64_t> 1000))
            if n > 0 and fds[0].revents != POLLOUT and not PQconsumeInput(self.conn):
                raise self.error()

    cdef int expect(self, const PGresult *res, str what) except -1:
        cdef ExecStatusType status = PQresultStatus(res)
        if status != PGRES_COMMAND_OK and status != PGRES_TUPLES_OK:
            raise ConnectionError(f"{what}: {PQresultErrorMessage(res).decode(errors='replace').strip()}")
        return 0

    cdef bint push(self):
        """Hands what is buffered to the socket. False when the connection is gone."""
        cdef int left
        with nogil:
            left = PQflush(self.conn)
        self.want_write = left == 1
        return left >= 0

    cdef bint execute(self, const char *statement, Columns columns, int n):
        """Queues a prepared statement with the first n parameters."""
        return PQsendQueryPrepared(self.conn, statement, n, columns.values, columns.lengths, columns.formats, 1) == 1

    cdef bint execute_text(self, const char *text, Columns columns, int n):
        """The same for a connection that keeps nothing prepared: the statement has no name, and is parsed each time."""
        return PQsendQueryParams(self.conn, text, n, NULL, columns.values, columns.lengths, columns.formats, 1) == 1

    cdef set notified(self):
        cdef PGnotify *note
        cdef set found = set()
        while self.conn != NULL:
            note = PQnotifies(self.conn)
            if note == NULL:
                break
            try:
                found.add(note.extra.decode(errors="replace"))
            finally:
                PQfreemem(note)
        return found


cdef object diagnostic(const PGresult *res, int field):
    cdef const char *text = PQresultErrorField(res, field)
    return None if text == NULL else text.decode(errors="replace")


cdef object nonsense(str what):
    """The error for an answer that breaks the protocol: what became of the batch is then unknown."""
    return ConnectionError(f"the server's answer makes no sense: {what}")


cdef list times_of(const PGresult *res):
    """The first column's times in microseconds since 1970, None where it is null."""
    cdef int row
    cdef list found = []
    for row in range(PQntuples(res)):
        found.append(None if PQnfields(res) and PQgetisnull(res, row, 0) else time_of(res, row))
    return found


cdef int64_t time_of(const PGresult *res, int row) except? -1:
    cdef int64_t at
    if PQnfields(res) < 1 or PQgetisnull(res, row, 0) or PQgetlength(res, row, 0) != 8:
        raise nonsense("no time where there should be one")
    at = get_i64(PQgetvalue(res, row, 0))
    if at > 0x7fffffffffffffff - PG_EPOCH_US:
        raise nonsense("a time out of range")
    return at + PG_EPOCH_US
