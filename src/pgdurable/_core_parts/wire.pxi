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
    """One libpq connection. Connecting blocks, everything after does not."""

    cdef PGconn *conn
    cdef int made_after
    cdef int socket
    cdef int64_t round_trip_ns
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

    cdef object connect(self, str conninfo):
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
        cdef int64_t begun = monotonic_ns()
        with nogil:
            res = PQprepare(self.conn, c_name, c_text, 0, NULL)
        self.round_trip(begun)
        self.expect(res, "preparing a statement failed")

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

    cdef object expect(self, PGresult *res, str what):
        cdef ExecStatusType status
        if res == NULL:
            raise self.error()
        status = PQresultStatus(res)
        if status != PGRES_COMMAND_OK and status != PGRES_TUPLES_OK:
            text = PQresultErrorMessage(res).decode(errors="replace").strip()
            PQclear(res)
            raise ConnectionError(f"{what}: {text}")
        PQclear(res)

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
