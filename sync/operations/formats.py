"""Times, durations, sizes and errors as texts for operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def truncate(error: str | None, most: int = 160) -> str:
    """Shorten an error to one line of at most `most` characters by omitting its middle.

    The message starts with what happened and ends with what to type.
    """
    line = " ".join((error or "no reason given").split())
    if len(line) <= most:
        return line
    room = most - len(" … ")
    beginning, end = line[: room // 3], line[-(room - room // 3) :]
    return f"{whole_words(beginning)} … {whole_words(end[::-1])[::-1]}"


def whole_words(text: str) -> str:
    """Remove a truncated word at the end, unless it is most of the text."""
    whole, _, _ = text.rpartition(" ")
    return whole.rstrip() if len(whole) > len(text) // 2 else text.strip()


def format_utc(moment: datetime) -> str:
    """Format a time as `2026-01-31 12:00:00 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_duration(span: timedelta) -> str:
    """Format a duration as `4s`, `12m`, `3h 05m` or `2d 4h`."""
    seconds = max(0, int(span.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


def format_bytes(count: float) -> str:
    """Format bytes as `812 kB`, `1.2 MB` or `3.4 GB`."""
    for unit, bytes_ in (("GB", 1 << 30), ("MB", 1 << 20)):
        if count >= bytes_:
            return f"{count / bytes_:,.1f} {unit}"
    return f"{count / 1024:,.0f} kB"
