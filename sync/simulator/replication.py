"""getUpdated and getDeleted: which records changed or went in a window of whole minutes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sync.simulator import values
from sync.simulator.objects.schema import SObject
from sync.simulator.org import Org
from sync.simulator.store import quote
from sync.simulator.wire import refuse

MAX_IDS = 600_000
MAX_AGE = timedelta(days=30)
DELETE_LOG_LIFE = timedelta(days=15)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)")


class Window:
    """A checked window, its ends cut to the minute, and how far the answer covers it, in epoch seconds."""

    def __init__(self, org: Org, params: dict[str, str], shortest: timedelta, lag: float) -> None:
        now, options = org.clock.now(), org.options
        start, end = (_minute(name, params.get(name)) for name in ("start", "end"))
        if end - start <= shortest:
            # Salesforce words it this way round.
            _refuse("startDate must be at least one minute greater than endDate")
        if start < now - MAX_AGE:
            _refuse("startDate cannot be more than 30 days ago")
        if options.replication_enabled_at is not None and start < options.replication_enabled_at:
            _refuse("startDate before org replication enabled date")
        covered = min(end, now - timedelta(seconds=lag))
        self.start = values.seconds(start)
        self.covered = values.seconds(covered)


def _minute(name: str, text: str | None) -> datetime:
    if text is None:
        raise refuse(400, "MISSING_ARGUMENT", f"The required parameter {name} is missing")
    try:
        if not _MOMENT.fullmatch(text):  # an unencoded + arrives as a blank and ends here
            raise ValueError(text)
        return datetime.fromisoformat(text).astimezone(UTC).replace(second=0, microsecond=0)
    except (ValueError, OverflowError):
        raise refuse(400, "INVALID_REPLICATION_DATE", f"invalid date and time: {text}") from None


def _refuse(message: str) -> None:
    raise refuse(400, "INVALID_REPLICATION_DATE", message)


def updated(org: Org, sobject: SObject, params: dict[str, str]) -> dict[str, Any]:
    """Ids of live records whose SystemModstamp lies in the window, creations included."""
    window = Window(org, params, timedelta(), org.options.latest_date_covered_lag)
    alive = " AND IsDeleted = 0" if sobject.recyclable else ""
    stamp = sobject.stamp_field
    if stamp is None:
        raise refuse(400, "INVALID_TYPE_FOR_OPERATION", f"{sobject.name} has no time of change")
    rows = org.store.execute(
        f"SELECT Id FROM {quote(sobject.name)} WHERE {stamp} >= ? AND {stamp} <= ?{alive}"
        f" LIMIT {MAX_IDS + 1}",
        (window.start, window.covered),
    )
    found = [row[0] for row in rows]
    if len(found) > MAX_IDS:
        raise refuse(400, "EXCEEDED_ID_LIMIT", f"exceeded the limit of {MAX_IDS} ids")
    return {"ids": found, "latestDateCovered": values.moment_text(window.covered)}


def deleted(org: Org, sobject: SObject, params: dict[str, str]) -> dict[str, Any]:
    """Deletions that the delete log still knows: of the last 15 days, and none from before its last purge."""
    options = org.options
    lag = options.latest_date_covered_lag if options.delete_log_lag is None else options.delete_log_lag
    window = Window(org, params, timedelta(minutes=1), lag)
    oldest = values.seconds(org.clock.now() - DELETE_LOG_LIFE)
    if org.delete_log_start is not None:
        if window.start < org.delete_log_start:
            _refuse("startDate before the oldest entry of the delete log")
        oldest = max(oldest, org.delete_log_start)
    rows = org.store.execute(
        "SELECT id, max(stamp) FROM delete_log WHERE object = ? AND stamp >= ? AND stamp <= ?"
        " GROUP BY id ORDER BY 2, 1",
        (sobject.name, max(window.start, oldest), window.covered),
    )
    return {
        "deletedRecords": [
            {"deletedDate": values.moment_text(stamp), "id": record_id} for record_id, stamp in rows
        ],
        "earliestDateAvailable": values.moment_text(oldest),
        "latestDateCovered": values.moment_text(window.covered),
    }
