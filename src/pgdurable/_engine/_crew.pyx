# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True, auto_pickle=False
"""Runs `async def` steps on the service's event loop: a step that waits has a task of its own, the others share one.

A task costs about two microseconds on CPython 3.11, more than most of what surrounds a step that ends without
waiting (a cache hit, a computation, a value from a buffer). So one task, the leader, begins the steps in turn. The
first that waits keeps that task for good, and another leader takes the rest. Each step has a context of its own.

A step that leaves a mark on its task (it keeps a reference to it or a weak one, adds a callback, cancels it) is the
last that task runs: no later step sees anything of an earlier one. What is alike in every respect that matters is
what Python 3.12 calls eager tasks.
"""

cimport cython
from cpython.object cimport PyObject

from asyncio import Task
from collections import deque
from contextvars import copy_context
from time import perf_counter
from types import CoroutineType
from weakref import getweakrefcount

cdef extern from *:
    """
    /* The value sent into a coroutine: what it yields, or with *ended what it returns; NULL: it raised. */
    static PyObject *pgd_send(PyObject *coro, PyObject *value, int *ended) {
        PyObject *result = NULL;
        *ended = PyIter_Send(coro, value, &result) == PYGEN_RETURN;
        return result;
    }

    /* References are counted in two places without the GIL, so that nothing is seen by comparing counts. */
    #ifdef Py_GIL_DISABLED
    #define PGD_COUNTS 0
    #else
    #define PGD_COUNTS 1
    #endif
    """
    object pgd_send(object coro, object value, int *ended)
    bint PGD_COUNTS

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    Py_ssize_t Py_REFCNT(PyObject *o)


from pgdurable._engine.attempts import Attempt
from pgdurable._runtime.current import current_attempt


async def _awaited(awaitable):
    return await awaitable


@cython.final
cdef class Crew:
    """The steps that are to begin on one event loop, in order.

    Args:
        after: called when as many were begun as there were, or the last one waits.
    """

    cdef object loop
    cdef object queue
    cdef object after
    cdef Leader leader

    def __init__(self, loop, after=None):
        self.loop = loop
        self.after = after
        self.queue = deque()

    def add(self, run):
        """Begins the step in the next turn of the loop. `run.queued` is true until then; made false, it never begins.

        The step's end is told by `run.ended(value, error)`; `run.waits()` is called when it first waits.
        """
        run.queued = True
        self.queue.append(run)
        if self.leader is None:
            self.appoint()

    cdef int appoint(self) except -1:
        cdef Leader leader = Leader.__new__(Leader)
        leader.crew = self
        self.leader = leader
        # Its steps run in copies of this context: by the leader they are found from inside, at no cost for each.
        context = copy_context()
        context.run(current_attempt.set, leader)
        leader.task = context.run(_task, leader, self.loop)
        return 0

    cdef int resign(self, Leader leader) except -1:
        """This task begins no more steps: another takes the rest."""
        if self.leader is leader:
            self.leader = None
            if self.queue:
                self.appoint()
            elif self.after is not None:
                self.after()
        return 0


def _task(leader, loop):
    return Task(leader, loop=loop)


@cython.final
cdef class Leader:
    """What the task runs: a coroutine, as far as asyncio can tell."""

    cdef Crew crew
    cdef object task
    cdef object run          # the step that waits, if one does
    cdef object begun        # the step that was begun last
    cdef object coro
    cdef object context
    cdef object __weakref__

    def __next__(self):
        if self.coro is not None:
            return self.go_on(None)
        return self.lead()

    def send(self, value):
        return self.go_on(None) if self.coro is not None else self.lead()

    def throw(self, error, value=None, traceback=None):
        if isinstance(error, type):
            error = error() if value is None else value
        if self.coro is not None:
            return self.go_on(error)
        # Cancelled before it began, as all tasks are when their loop ends.
        runs = list(self.crew.queue)
        self.crew.queue.clear()
        for run in runs:
            if run.queued:
                run.queued = False
                run.task = self.task
                run.ended(None, error)
        self.crew.resign(self)
        self.task = None
        raise error

    def close(self):
        if self.coro is not None:
            self.coro.close()

    def running(self):
        """For `heartbeat` and the like: the attempt whose code this is."""
        return Attempt(self.begun).running()

    @property
    def __name__(self):
        """For asyncio's messages: the step that waits here."""
        return f"step {self.run.command.name}" if self.run is not None else "steps"

    def __await__(self):
        return self

    def __iter__(self):
        return self

    cdef object lead(self):
        """Begins steps until one waits; returns what it waits for."""
        cdef Crew crew = self.crew
        cdef object task = self.task
        cdef Py_ssize_t references = Py_REFCNT(<PyObject *> task)
        cdef int ended = 0
        try:
            while crew.queue:
                run = crew.queue.popleft()
                if not run.queued:
                    continue
                run.queued = False
                run.task = task
                self.begun = run
                run.started = perf_counter()
                context = PyContext_CopyCurrent()
                command = run.command
                coro = None
                try:
                    PyContext_Enter(context)
                    try:
                        if command.kwargs:
                            coro = command.step.fn(*command.args, **command.kwargs)
                        else:
                            coro = command.step.fn(*command.args)
                        if type(coro) is not CoroutineType and not hasattr(coro, "send"):
                            coro = _awaited(coro)
                        found = pgd_send(coro, None, &ended)
                    finally:
                        PyContext_Exit(context)
                except BaseException as error:
                    run.ended(None, error)
                    if isinstance(error, KeyboardInterrupt):
                        raise
                else:
                    if not ended:
                        self.run = run
                        self.coro = coro
                        self.context = context
                        run.waits()
                        return found
                    run.ended(found, None)
                run = coro = context = command = found = None
                if (
                    not PGD_COUNTS
                    or Py_REFCNT(<PyObject *> task) != references
                    or task._must_cancel
                    or task._callbacks is not None
                    or getweakrefcount(task) != 1
                ):
                    break
        finally:
            crew.resign(self)
        self.task = None
        raise StopIteration

    cdef object go_on(self, error):
        """The step that waits goes on; returns what it waits for next."""
        cdef int ended = 0
        run, coro = self.run, self.coro
        try:
            PyContext_Enter(self.context)
            try:
                if error is not None:
                    try:
                        return coro.throw(error)
                    except StopIteration as stop:
                        found = stop.value
                        ended = 1
                else:
                    found = pgd_send(coro, None, &ended)
            finally:
                PyContext_Exit(self.context)
            if not ended:
                return found
        except BaseException as raised:
            self.run = self.coro = self.context = None
            run.ended(None, raised)
            self.task = None
            if isinstance(raised, KeyboardInterrupt):
                raise
            raise StopIteration from None
        self.run = self.coro = self.context = None
        run.ended(found, None)
        self.task = None
        raise StopIteration
