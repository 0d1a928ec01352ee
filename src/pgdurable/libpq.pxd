# The part of libpq the core calls. Signatures follow PostgreSQL's documentation, chapter "libpq - C Library".

from libc.stdio cimport FILE

cdef extern from "libpq-fe.h":
    ctypedef struct PGconn:
        pass
    ctypedef struct PGresult:
        pass
    ctypedef struct PGnotify:
        char *relname
        int be_pid
        char *extra
    ctypedef unsigned int Oid

    ctypedef enum ConnStatusType:
        CONNECTION_OK
        CONNECTION_BAD

    ctypedef enum ExecStatusType:
        PGRES_EMPTY_QUERY
        PGRES_COMMAND_OK
        PGRES_TUPLES_OK
        PGRES_COPY_OUT
        PGRES_COPY_IN
        PGRES_BAD_RESPONSE
        PGRES_NONFATAL_ERROR
        PGRES_FATAL_ERROR
        PGRES_PIPELINE_SYNC
        PGRES_PIPELINE_ABORTED

    ctypedef enum PGTransactionStatusType:
        PQTRANS_IDLE
        PQTRANS_ACTIVE
        PQTRANS_INTRANS
        PQTRANS_INERROR
        PQTRANS_UNKNOWN

    int PG_DIAG_SEVERITY
    int PG_DIAG_SEVERITY_NONLOCALIZED
    int PG_DIAG_SQLSTATE
    int PG_DIAG_MESSAGE_PRIMARY
    int PG_DIAG_MESSAGE_DETAIL

    PGconn *PQconnectdb(const char *conninfo) nogil
    void PQfinish(PGconn *conn) nogil
    ConnStatusType PQstatus(const PGconn *conn) nogil
    PGTransactionStatusType PQtransactionStatus(const PGconn *conn) nogil
    char *PQerrorMessage(const PGconn *conn) nogil
    int PQsocket(const PGconn *conn) nogil
    int PQbackendPID(const PGconn *conn) nogil
    int PQserverVersion(const PGconn *conn) nogil
    int PQlibVersion() nogil
    int PQsetnonblocking(PGconn *conn, int arg) nogil
    ctypedef void (*PQnoticeReceiver)(void *arg, const PGresult *res) noexcept nogil
    PQnoticeReceiver PQsetNoticeReceiver(PGconn *conn, PQnoticeReceiver receiver, void *arg) nogil

    int PQsendPrepare(PGconn *conn, const char *name, const char *query, int n, const Oid *types) nogil
    int PQsendQuery(PGconn *conn, const char *query) nogil
    int PQsendQueryParams(PGconn *conn, const char *command, int n, const Oid *types, const char *const *values,
                          const int *lengths, const int *formats, int result_format) nogil
    int PQsendQueryPrepared(PGconn *conn, const char *name, int n, const char *const *values,
                            const int *lengths, const int *formats, int result_format) nogil
    int PQenterPipelineMode(PGconn *conn) nogil
    int PQexitPipelineMode(PGconn *conn) nogil
    int PQpipelineSync(PGconn *conn) nogil
    int PQflush(PGconn *conn) nogil
    int PQconsumeInput(PGconn *conn) nogil
    int PQisBusy(PGconn *conn) nogil
    PGresult *PQgetResult(PGconn *conn) nogil
    int PQputCopyData(PGconn *conn, const char *buffer, int nbytes) nogil
    int PQputCopyEnd(PGconn *conn, const char *errormsg) nogil

    ExecStatusType PQresultStatus(const PGresult *res) nogil
    char *PQresultErrorField(const PGresult *res, int fieldcode) nogil
    char *PQresultErrorMessage(const PGresult *res) nogil
    int PQntuples(const PGresult *res) nogil
    int PQnfields(const PGresult *res) nogil
    int PQgetlength(const PGresult *res, int row, int column) nogil
    int PQgetisnull(const PGresult *res, int row, int column) nogil
    char *PQgetvalue(const PGresult *res, int row, int column) nogil
    void PQclear(PGresult *res) nogil
    int PQTRACE_SUPPRESS_TIMESTAMPS
    void PQtrace(PGconn *conn, FILE *file) nogil
    void PQuntrace(PGconn *conn) nogil
    void PQsetTraceFlags(PGconn *conn, int flags) nogil
    PGnotify *PQnotifies(PGconn *conn) nogil
    void PQfreemem(void *ptr) nogil
