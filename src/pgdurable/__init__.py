"""pgdurable: durable execution for people who already run PostgreSQL.

Workflows are plain Python; every step is checkpointed in PostgreSQL; after a crash of the process, the machine or
the database they go on from the last checkpoint.
"""

from pgdurable import sync
from pgdurable._client.queues import PartitionInfo, QueueInfo, Queues
from pgdurable._client.schedules import Schedule, Schedules
from pgdurable._client.streams import StreamItem
from pgdurable.batch import Batch
from pgdurable.child import ChildHandle, start_child
from pgdurable.client import Client, Entry, Handle, InstanceInfo, Starts
from pgdurable.compression import Compression
from pgdurable.context import continue_as_new, now, random, sleep, uuid4, wait_signal
from pgdurable.embedded import EmbeddedServer, embedded
from pgdurable.encryption import Encryption
from pgdurable.engine import Engine
from pgdurable.errors import (
    AttemptOver,
    CodecError,
    CompensationFailed,
    ConnectionFailed,
    FencedError,
    HeartbeatTimeout,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFinished,
    InstanceNotFound,
    InstancePaused,
    InvalidId,
    InvalidInput,
    NonDeterminismError,
    NonRetryable,
    PayloadBroken,
    PayloadSealed,
    PayloadTooLarge,
    PgDurableError,
    Quarantined,
    QueryFailed,
    RetryAfter,
    ScheduleNotFound,
    SchemaError,
    StepFailed,
    StepInterrupted,
    StepProcessDied,
    StepTimeout,
    UnknownWorkflow,
    UpdateFailed,
    UpdateRejected,
    WorkflowIoError,
    WorkflowTimeout,
)
from pgdurable.handle import RunningStep
from pgdurable.handlers import expose, on_query, on_update, wait_until
from pgdurable.heartbeats import heartbeat, heartbeat_details, progress
from pgdurable.http import Http
from pgdurable.info import Current, current
from pgdurable.logs import Logger, get_logger, logger
from pgdurable.patches import deprecate_patch, patched
from pgdurable.retry import Retry
from pgdurable.saga import Saga, saga
from pgdurable.sending import signal
from pgdurable.state import set_state
from pgdurable.steps import Step, Transaction, step, transaction
from pgdurable.stream import Stream, stream
from pgdurable.workflow import Workflow, workflow

__version__ = "0.1.0.dev0"

__all__ = [
    "AttemptOver",
    "Batch",
    "ChildHandle",
    "Client",
    "CodecError",
    "CompensationFailed",
    "Compression",
    "ConnectionFailed",
    "Current",
    "EmbeddedServer",
    "Encryption",
    "Engine",
    "Entry",
    "FencedError",
    "Handle",
    "HeartbeatTimeout",
    "Http",
    "InstanceFailed",
    "InstanceFinished",
    "InstanceInfo",
    "InstanceNotFinished",
    "InstanceNotFound",
    "InstancePaused",
    "InvalidId",
    "InvalidInput",
    "Logger",
    "NonDeterminismError",
    "NonRetryable",
    "PartitionInfo",
    "PayloadBroken",
    "PayloadSealed",
    "PayloadTooLarge",
    "PgDurableError",
    "Quarantined",
    "QueryFailed",
    "QueueInfo",
    "Queues",
    "Retry",
    "RetryAfter",
    "RunningStep",
    "Saga",
    "Schedule",
    "ScheduleNotFound",
    "Schedules",
    "SchemaError",
    "Starts",
    "Step",
    "StepFailed",
    "StepInterrupted",
    "StepProcessDied",
    "StepTimeout",
    "Stream",
    "StreamItem",
    "Transaction",
    "UnknownWorkflow",
    "UpdateFailed",
    "UpdateRejected",
    "Workflow",
    "WorkflowIoError",
    "WorkflowTimeout",
    "continue_as_new",
    "current",
    "deprecate_patch",
    "embedded",
    "expose",
    "get_logger",
    "heartbeat",
    "heartbeat_details",
    "logger",
    "now",
    "on_query",
    "on_update",
    "patched",
    "progress",
    "random",
    "saga",
    "set_state",
    "signal",
    "sleep",
    "start_child",
    "step",
    "stream",
    "sync",
    "transaction",
    "uuid4",
    "wait_signal",
    "wait_until",
    "workflow",
]
