"""Structured logs: logfmt, JSON or pretty; every event has a stable name and no secret in it.

A line is one event: `event` is its stable name, the other keys its context. Each object's run ends in one
canonical line, `event=object_synced`, that carries everything worth graphing.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, cast

import structlog

Event = MutableMapping[str, Any]

# Access tokens are not known in advance: 15 characters of org Id, "!", then the key; or a JWT.
TOKEN = re.compile(r"00D[A-Za-z0-9]{12,15}![\w.]+|eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=Bearer )\S+")
MASK = "***"
# Heroku splits longer lines into several events.
LONGEST = 8_000

_secrets: set[str] = set()


def redact(text: str) -> str:
    """The text without any known secret or anything that looks like an access token."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return TOKEN.sub(MASK, text)


def hide(secrets: Sequence[str]) -> None:
    """Never print these values again, nor the lines of a multi-line one."""
    for secret in secrets:
        _secrets.update(part for part in (secret, *secret.splitlines()) if len(part) >= 4)


def _redact(_logger: Any, _method: str, event: Event) -> Event:
    for key, value in event.items():
        if isinstance(value, str):
            cleaned = redact(value)
            event[key] = cleaned if len(cleaned) <= LONGEST else cleaned[:LONGEST] + "…"
        elif not isinstance(value, int | float | bool | type(None)):
            event[key] = redact(str(value))
    return event


def _one_line(_logger: Any, _method: str, event: Event) -> Event:
    """A traceback is one value, so that a log drain keeps it in one event."""
    if "exception" in event:
        event["exception"] = " | ".join(line.strip() for line in event["exception"].splitlines())
    return event


def setup(level: str, form: str, secrets: Sequence[str] = (), dyno: str = "local") -> None:
    """Send every log of this process, libraries' included, to stderr: stdout belongs to results."""
    hide(secrets)
    renderer: Any = {
        "logfmt": structlog.processors.LogfmtRenderer(key_order=["level", "event"], bool_as_flag=False),
        "json": structlog.processors.JSONRenderer(),
        "pretty": structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    }[form]

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
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(logging.WARNING)
    logging.getLogger("sync").setLevel(level.upper())
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(name))
