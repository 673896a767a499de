"""Structured logs of a process: structlog's lines, and the records of other libraries in the same form.

Everything goes through one renderer: our lines, records of the standard library, warnings, exceptions that nobody
caught. Its last step removes credentials (`redaction`). A line's fields come from whoever logs, from what is bound in
the context (`structlog.contextvars`), and from the workflow's id (`subject`). Nothing else configures logging,
except `kube-cache store`, whose standard output is for the answer.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kube_cache.telemetry import redaction, subject

_FIRST: Final = ("timestamp", "level", "event", "pod", "node", "dataset", "workflow", "trace_id")
"""The fields that a line begins with, for people who read JSON."""
_SDK_DETAILS: Final = ("temporal_workflow", "temporal_activity")
_log = structlog.get_logger("kube_cache.process")

Renderer = Callable[[WrappedLogger, str, EventDict], str]


def configure_logging(level: str, form: str, **always: str) -> None:
    """Configure logging to standard error.

    level: a name of the standard library. form: `json`, `console`, or `auto`, which is `console` on a terminal. always:
    fields of every line that has none of that name; empty ones are left out.
    """
    render = renderer(form, sys.stderr, **always)
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), _flatten_sdk_details],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The SDK logs a failed activity with its traceback; activities.failures has logged the failure in one line.
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)
    # botocore logs at INFO where each client found its credentials.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    _log_uncaught()
    structlog.configure(
        processors=[*_SHARED, render],
        # Past the standard library, whose record costs twice as much as the line.
        logger_factory=lambda *args: _Logger(handler, *args),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )


def renderer(form: str, stream: TextIO, **always: str) -> Renderer:
    """Return what makes a line of an event, and raises nothing. stream: where the line goes; a terminal or not."""
    on_terminal = stream.isatty()
    render: Callable[..., Any] = _to_json
    if form == "console" or (form == "auto" and on_terminal):
        # Plain tracebacks: those of `rich` would show the variables of each frame.
        plain = structlog.dev.plain_traceback
        render = structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=plain)
    constant = {name: value for name, value in always.items() if value}

    def to_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        try:
            event = structlog.processors.format_exc_info(logger, method, _complete(event, constant))
            return redaction.redact(render(logger, method, event))
        except Exception as error:  # a value whose repr raises, for instance: the caller must not suffer for its words
            return _encode({"level": "error", "event": f"a log line could not be written: {type(error).__name__}"})

    return to_line


def _complete(event: EventDict, constant: dict[str, str]) -> EventDict:
    """Add what the line is about, mask secret fields, and put the fields in order."""
    if workflow := event.get("workflow"):
        for name, value in subject.of_workflow(workflow).items():
            event.setdefault(name, value)
    for name, value in constant.items():
        event.setdefault(name, value)
    for name in event:
        if redaction.is_secret(name):
            event[name] = redaction.MASK
    return {**{name: event[name] for name in _FIRST if name in event}, **event}


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]
_encode: Final = json.JSONEncoder(default=repr, skipkeys=True).encode
"""Made once: `json.dumps` with an argument makes an encoder for each line."""


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return _encode(event)
    except ValueError:  # a field that holds itself
        return _encode({name: value if isinstance(value, str) else repr(value) for name, value in event.items()})


def _flatten_sdk_details(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn what Temporal's SDK adds to its records into our fields."""
    for name in _SDK_DETAILS:
        if isinstance(details := event.pop(name, None), dict):
            event.setdefault("workflow", details.get("workflow_id"))
    if (core := event.pop("temporal_log", None)) is not None:
        for name, value in core.fields.items():
            event.setdefault("workflow" if name == "workflow_id" else name, value)
    return event


class _Handler(logging.StreamHandler[TextIO]):
    """Tells of a record that cannot be formatted without its arguments, which the standard library would print."""

    def write(self, line: str) -> None:
        """Write a whole line; a stream that is gone is nobody's error. Thread-safe."""
        with self.lock or threading.Lock():
            try:
                self.stream.write(line + self.terminator)
                self.stream.flush()
            except (OSError, ValueError):
                pass

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the standard library's name
        event = f"a log line could not be written: {type(sys.exception()).__name__}"
        where = f"{record.pathname}:{record.lineno}"
        self.write(_encode({"level": "error", "event": event, "logger": record.name, "where": where}))


class _Logger:
    """Takes the finished lines of structlog."""

    def __init__(self, handler: _Handler, name: str = "") -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = handler.write


def _log_uncaught() -> None:
    """Log what the interpreter would print in words of its own: exceptions that nobody caught."""

    def in_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            _log.critical("an exception ends the process", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit and args.exc_value is not None:
            name = args.thread.name if args.thread else ""
            exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
            _log.error("an exception ends a thread", thread=name, exc_info=exc_info)

    def in_finalizer(args: sys.UnraisableHookArgs) -> None:
        error = args.exc_value
        exc_info = (args.exc_type, error, args.exc_traceback) if error is not None else None
        _log.error("an exception was ignored", where=repr(args.object), exc_info=exc_info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = in_main, in_thread, in_finalizer
