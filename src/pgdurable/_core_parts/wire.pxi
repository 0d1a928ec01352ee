# The connection: what is the same whatever is sent over it.

@cython.final
cdef class Wire:
    """One libpq connection. Connecting blocks, everything after does not."""

    cdef PGconn *conn
    cdef int pid
    cdef bint want_write

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        if self.conn != NULL:
            # In a forked child the socket is the parent's: saying goodbye on it would end the parent's session.
            if self.pid == getpid():
                PQfinish(self.conn)
            self.conn = NULL
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
        self.conn = conn
        self.pid = getpid()
        if PQstatus(conn) != CONNECTION_OK:
            error = self.error()
            self.close()
            raise error

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
        with nogil:
            res = PQprepare(self.conn, c_name, c_text, 0, NULL)
        self.expect(res, "preparing a statement failed")

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

    cdef bint execute(self, bytes statement, Columns columns, int n):
        """Queues a prepared statement with the first n parameters."""
        cdef const char *c_statement = statement
        return PQsendQueryPrepared(self.conn, c_statement, n, columns.values, columns.lengths, columns.formats, 1) == 1

    cdef set notified(self):
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


cdef object diagnostic(PGresult *res, int field):
    cdef const char *text = PQresultErrorField(res, field)
    return None if text == NULL else text.decode(errors="replace")


cdef list times_of(PGresult *res):
    cdef int row
    return [None if PQgetisnull(res, row, 0) else get_i64(PQgetvalue(res, row, 0)) + PG_EPOCH_US
            for row in range(PQntuples(res))]
