# An audit hook that looks at an event's name in C, and calls Python only for the few that matter.
# One written in Python costs a call for every event of the process; asyncio raises four in each burst.

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    ctypedef int (*AuditHook)(const char *event, PyObject *args, void *data) except -1
    int PySys_AddAuditHook(AuditHook hook, void *data) except -1
    int Py_IsInitialized()

cdef list audit_names = []
cdef object audit_callback = None


cdef int on_audit(const char *event, PyObject *args, void *data) except -1:
    cdef bytes name
    # All names of interest begin with one of these; most events end here.
    if event[0] != c't' and event[0] != c's' and event[0] != c'o' and event[0] != c'u':
        return 0
    if audit_callback is None or not Py_IsInitialized():
        return 0
    for name in <list> audit_names:
        if strcmp(<const char *> name, event) == 0:
            audit_callback(name.decode(), <object> args)
            return 0
    return 0


def add_audit_hook(names, callback):
    """Calls `callback(event, args)` for the audit events of these names, in this process from now on, for ever.

    Raises ValueError when it is called again, or for a name that begins with a letter it does not look at.
    """
    global audit_names, audit_callback
    if audit_callback is not None:
        raise ValueError("the audit hook is in already")
    for name in names:
        if name[0] not in "tsou":
            raise ValueError(f"the audit hook does not look at {name!r}")
    audit_names = [name.encode() for name in sorted(names)]
    audit_callback = callback
    PySys_AddAuditHook(on_audit, NULL)
