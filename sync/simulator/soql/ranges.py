"""Date literals such as TODAY and LAST_N_DAYS:30, as half-open ranges of days in UTC."""

import re
from collections.abc import Callable
from datetime import date, timedelta

from sync.simulator.soql.errors import SoqlError, malformed

DAY = timedelta(days=1)


def _month(day: date, offset: int) -> date:
    months = day.year * 12 + day.month - 1 + offset
    return date(months // 12, months % 12 + 1, 1)


def _week(day: date) -> date:
    return day - timedelta(days=(day.weekday() + 1) % 7)  # weeks start on Sunday in an American locale


_NAMED: dict[str, Callable[[date], tuple[date, date]]] = {
    "TODAY": lambda today: (today, today + DAY),
    "YESTERDAY": lambda today: (today - DAY, today),
    "TOMORROW": lambda today: (today + DAY, today + 2 * DAY),
    "THIS_WEEK": lambda today: (_week(today), _week(today) + 7 * DAY),
    "LAST_WEEK": lambda today: (_week(today) - 7 * DAY, _week(today)),
    "THIS_MONTH": lambda today: (_month(today, 0), _month(today, 1)),
    "LAST_MONTH": lambda today: (_month(today, -1), _month(today, 0)),
    "THIS_YEAR": lambda today: (date(today.year, 1, 1), date(today.year + 1, 1, 1)),
    "LAST_YEAR": lambda today: (date(today.year - 1, 1, 1), date(today.year, 1, 1)),
    "LAST_90_DAYS": lambda today: (today - 89 * DAY, today + DAY),
}
_COUNTED: dict[str, Callable[[date, int], tuple[date, date]]] = {
    "LAST_N_DAYS": lambda today, n: (today - n * DAY, today + DAY),
    "NEXT_N_DAYS": lambda today, n: (today + DAY, today + (n + 1) * DAY),
    "N_DAYS_AGO": lambda today, n: (today - n * DAY, today - (n - 1) * DAY),
    "LAST_N_MONTHS": lambda today, n: (_month(today, -n), _month(today, 0)),
    "LAST_N_YEARS": lambda today, n: (date(today.year - n, 1, 1), date(today.year, 1, 1)),
}


def known(text: str) -> bool:
    return text.upper().split(":")[0] in _NAMED.keys() | _COUNTED.keys()


def days(text: str, today: date, position: int) -> tuple[date, date]:
    """The first day of a range and the day after its last; SoqlError for a word that is no literal."""
    found = re.fullmatch(r"([A-Za-z_0-9]+)(?::(\d+))?", text)
    name, count = (found[1].upper(), found[2]) if found else ("", None)
    try:
        if count is None and name in _NAMED:
            return _NAMED[name](today)
        if count is not None and name in _COUNTED:
            return _COUNTED[name](today, int(count))
    except (OverflowError, ValueError):
        raise SoqlError("MALFORMED_QUERY", f"date literal out of range: {text}", position) from None
    raise malformed(f"unexpected token: '{text}'", position)
