# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True, auto_pickle=False
"""The inner cycle of the deterministic loop, and which machine's code runs in this thread.

A burst happens once per event of every instance, so what surrounds it counts: making the instance's loop the running
one and back, and the hooks for async generators. asyncio's own functions for that cost about a microsecond together
on CPython 3.11 (`_set_running_loop` asks the kernel for the process id, `sys.set_asyncgen_hooks` raises audit events);
here they are a few assignments. What is assumed of CPython is tried out at import (`_holder_fits`), and where it
does not hold asyncio's functions are used.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF

from asyncio.events import _get_running_loop, _set_running_loop

cdef extern from *:
    """
    #include <sys/types.h>

    /* The machine whose workflow code runs in this thread: borrowed, whoever binds it holds it. */
    #if defined(_MSC_VER)
    static __declspec(thread) PyObject *pgd_machine = NULL;
    #else
    static __thread PyObject *pgd_machine = NULL;
    #endif

    /* CPython 3.10 and 3.11 (Modules/_asynciomodule.c) keep the running loop in an object of this shape, which stays
       in the thread state's dict. Since 3.12 there is none, and asyncio's own functions are quick. */
    #if PY_VERSION_HEX < 0x030C0000
    typedef struct {
        PyObject_HEAD
        PyObject *rl_loop;
        pid_t rl_pid;
    } PgdHolder;

    static PyObject **pgd_running(PyObject *key) {
        PyObject *dict = PyThreadState_GetDict();
        PyObject *holder = dict == NULL ? NULL : PyDict_GetItemWithError(dict, key);
        if (holder == NULL || (size_t) Py_TYPE(holder)->tp_basicsize != sizeof(PgdHolder))
            return NULL;
        return &((PgdHolder *) holder)->rl_loop;
    }
    #else
    static PyObject **pgd_running(PyObject *key) { (void) key; return NULL; }
    #endif

    static void pgd_swap_hooks(PyObject **first, PyObject **last) {
        PyThreadState *state = PyThreadState_Get();
        PyObject *was_first = state->async_gen_firstiter, *was_last = state->async_gen_finalizer;
        state->async_gen_firstiter = *first;
        state->async_gen_finalizer = *last;
        *first = was_first;
        *last = was_last;
    }
    """
    PyObject *pgd_machine
    PyObject **pgd_running(PyObject *key)
    void pgd_swap_hooks(PyObject **first, PyObject **last)

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()

cdef str HOLDER_KEY = "__asyncio_running_event_loop__"


cdef bint _holder_fits() except -1:
    """Whether the running loop can be changed in place: tried with two objects, in a thread without a loop."""
    cdef PyObject **place
    cdef object first = object(), second = object()
    if _get_running_loop() is not None:
        return False
    _set_running_loop(first)
    try:
        place = pgd_running(<PyObject *> HOLDER_KEY)
        if place == NULL or place[0] != <PyObject *> first:
            return False
        place[0] = <PyObject *> second
        fits = _get_running_loop() is second
        place[0] = <PyObject *> first
        return fits
    finally:
        _set_running_loop(None)


cdef bint IN_PLACE = _holder_fits()


def current_machine():
    """The machine whose workflow code is running now in this thread, or None outside workflow code."""
    return None if pgd_machine == NULL else <object> pgd_machine


def bind_thread(machine):
    """Says that this thread runs the code of this machine, which the caller keeps alive; None: of none."""
    global pgd_machine
    pgd_machine = NULL if machine is None else <PyObject *> machine


def _generator_begun(generator):
    """CPython's hook for an async generator's first iteration, during a burst."""
    if pgd_machine != NULL:
        (<object> pgd_machine).loop.generator_begun(generator)


cdef object BEGUN = _generator_begun


@cython.freelist(256)
cdef class Handle:
    """A callback to run in this burst."""

    cdef readonly object _callback
    cdef readonly object _context
    cdef readonly tuple _args
    cdef public bint _cancelled

    def __init__(self, callback, tuple args, context):
        self._callback = callback
        self._args = args
        self._context = context

    def cancel(self):
        self._cancelled = True

    def cancelled(self):
        return self._cancelled


@cython.final
@cython.internal
cdef class Finalizer:
    """CPython's hook for async generators that nobody refers to any more: each keeps that of its own loop."""

    cdef object loop

    def __call__(self, generator):
        self.loop.generator_ended(generator)


cdef class Cycle:
    """The part of the deterministic loop that runs once per event. `DeterministicLoop` is made of it.

    Attributes:
        machine: whose code this runs.
        _ready: what is to run in this burst, in order.
    """

    cdef public object machine
    cdef readonly list _ready
    cdef Py_ssize_t at             # of the next one to run
    cdef Finalizer finalizer
    cdef PyObject *outer_machine
    cdef PyObject *outer_loop      # owned while the burst runs
    cdef PyObject *outer_first     # owned by the thread's state before and after
    cdef PyObject *outer_last
    cdef bint in_place
    cdef object __weakref__

    def __cinit__(self, *args, **options):
        self._ready = []

    def call_soon(self, callback, *args, context=None):
        """Runs the callback later in this burst."""
        cdef Handle handle = Handle.__new__(Handle)
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        self._ready.append(handle)
        return handle

    def run_ready(self):
        """Runs what is ready and what that makes ready, as the running loop of this thread."""
        cdef list ready = self._ready
        cdef Handle handle
        self.enter()
        try:
            while self.at < len(ready):
                handle = <Handle> ready[self.at]
                self.at += 1
                if handle._cancelled:
                    continue
                try:
                    PyContext_Enter(handle._context)
                    try:
                        handle._callback(*handle._args)
                    finally:
                        PyContext_Exit(handle._context)
                except BaseException as failure:
                    self.callback_failed(handle, failure)
        finally:
            del ready[:self.at]
            self.at = 0
            self.leave()

    def end(self):
        """Lets go of what refers back to this loop, so that it goes without the garbage collector."""
        self.finalizer = None

    def clear_ready(self):
        """Forgets what is ready and has not run."""
        del self._ready[self.at:]

    cdef int enter(self) except -1:
        global pgd_machine
        cdef PyObject **place = pgd_running(<PyObject *> HOLDER_KEY) if IN_PLACE else NULL
        self.in_place = place != NULL
        if self.in_place:
            self.outer_loop = place[0]
            Py_INCREF(self)
            place[0] = <PyObject *> self
        else:
            outer = _get_running_loop()
            Py_INCREF(outer)
            self.outer_loop = <PyObject *> outer
            _set_running_loop(self)
        if self.finalizer is None:
            self.finalizer = Finalizer.__new__(Finalizer)
            self.finalizer.loop = self
        self.outer_first = <PyObject *> BEGUN
        self.outer_last = <PyObject *> self.finalizer
        Py_XINCREF(self.outer_first)
        Py_XINCREF(self.outer_last)
        pgd_swap_hooks(&self.outer_first, &self.outer_last)
        self.outer_machine = pgd_machine
        pgd_machine = <PyObject *> self.machine
        return 0

    cdef int leave(self) except -1:
        global pgd_machine
        cdef PyObject **place = pgd_running(<PyObject *> HOLDER_KEY) if self.in_place else NULL
        cdef PyObject *outer = self.outer_loop
        cdef PyObject *old
        pgd_machine = self.outer_machine
        pgd_swap_hooks(&self.outer_first, &self.outer_last)
        Py_XDECREF(self.outer_first)
        Py_XDECREF(self.outer_last)
        self.outer_first = self.outer_last = self.outer_loop = self.outer_machine = NULL
        try:
            if place != NULL:
                old = place[0]
                place[0] = outer
                outer = NULL
                Py_XDECREF(old)
            else:
                _set_running_loop(None if outer == NULL else <object> outer)
        finally:
            Py_XDECREF(outer)
        return 0


def switches_in_place():
    """Whether the running loop is changed in place on this Python, rather than through asyncio's functions."""
    return IN_PLACE
