"""Structured logs as logfmt, JSON or coloured text; each event has a stable name and contains no secret.

A line is one event: `event` is its stable name, the other keys are its context. Each object's run ends with
one line `event=object_synced` that holds all of its metrics.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

from sync.logs.printable import (
    escape_controls,
    escape_json,
    hide,
    redact,
    redact_bounded,
)

Event = MutableMapping[str, Any]

# Heroku splits longer lines into several events.
LONGEST = 8_000


def _redact(_logger: Any, _method: str, event: Event) -> Event:
    for key, value in event.items():
        if not key.startswith("_") and not isinstance(value, int | float | bool | type(None)):
            event[key] = redact_bounded(value if isinstance(value, str) else str(value), LONGEST)
    return event


def _one_line(_logger: Any, _method: str, event: Event) -> Event:
    """Join a traceback into one line, so that a log drain keeps it in one event."""
    if "exception" in event:
        event["exception"] = " | ".join(line.strip() for line in event["exception"].splitlines())
    return event


def _visible(_logger: Any, _method: str, event: Event) -> Event:
    """Escape control characters: a value must not start a new line or control a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escape_controls(value)
    return event


def _json(logger: Any, method: str, event: Event) -> str:
    """Render JSON and escape the control characters that JSON leaves; the values stay equal."""
    return escape_json(str(structlog.processors.JSONRenderer()(logger, method, event)))


class _Stderr(logging.StreamHandler[TextIO]):
    """Reports a failed log call without its values; Python's own report would print them."""

    def handleError(self, record: logging.LogRecord) -> None:
        problem = sys.exc_info()[0]
        line = f"level=error event=log_failed logger={record.name!r} line={record.lineno} problem={problem!r}"
        with suppress(OSError, ValueError):
            sys.stderr.write(escape_controls(redact(line)) + "\n")


def _crashed(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str
) -> None:
    """Log an uncaught error; Python would print it to stderr with its secrets."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    elif structlog.is_configured():
        get(__name__).critical("crashed", where=where, exc_info=(kind, error or kind(), trace))
    else:
        for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
            sys.stderr.write(escape_controls(redact(line)) + "\n")


def watch_crashes() -> None:
    """Log the uncaught errors of every thread, instead of letting Python print them."""
    sys.excepthook = lambda kind, error, trace: _crashed(kind, error, trace, "main")
    threading.excepthook = lambda args: _crashed(
        args.exc_type, args.exc_value, args.exc_traceback, args.thread.name if args.thread else "thread"
    )
    sys.unraisablehook = lambda args: _crashed(args.exc_type, args.exc_value, args.exc_traceback, "cleanup")


def setup(level: str, form: str, secrets: Sequence[str] = (), dyno: str = "local") -> None:
    """Send all logs of this process, including those of libraries, to stderr; stdout is for results.

    `form` is `logfmt`, `json` or `pretty`; `secrets` are masked in every line; `dyno` is added to every line,
    and any other value than `local` drops the timestamp, which Heroku adds.
    """
    hide(secrets)
    renderers: dict[str, list[Any]] = {
        "logfmt": [
            _visible,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
            ),
        ],
        "json": [_json],
        "pretty": [_visible, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
    }

    def _where(_logger: Any, _method: str, event: Event) -> Event:
        event.setdefault("dyno", dyno)
        return event

    common: list[Any] = [
        _where,
        structlog.stdlib.add_log_level,
        structlog.processors.ExceptionRenderer(),
        _one_line,
        _redact,
    ]
    if form == "pretty":
        common.insert(0, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
    elif dyno == "local":  # Heroku adds a time to each line
        common.insert(0, structlog.processors.TimeStamper(fmt="iso", utc=True))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,  # first: most lines are of a level that nobody wants
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    stream = _Stderr(sys.stderr)
    stream.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers[form]],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(logging.WARNING)
    logging.getLogger("sync").setLevel(level.upper())
    logging.captureWarnings(True)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(name))
