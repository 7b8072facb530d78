"""The plan of API calls applied: read from the database and the session, stored, and asked before work."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection

from sync.config.settings import DatabaseSettings
from sync.errors import DeferredError, SyncError
from sync.logs import logger
from sync.postgres.state import calls, journal
from sync.postgres.state.calls import OF_COMMAND, OTHER, VERIFY, Stored
from sync.postgres.tables import transaction
from sync.replication.budget.plan import LONGEST_UNVERIFIED, Plan, Rules, make_plan, stop_reason
from sync.replication.runs import SyncContext
from sync.salesforce.session.answers import Usage

log = logger.get(__name__)

# A stored count of the org's requests is believed for so long: after that nobody has asked.
FRESH = timedelta(hours=1)
STORE_EACH = timedelta(minutes=10)  # the org's usage; what is deferred is stored at once


def rules_of(settings: DatabaseSettings) -> Rules:
    """Return the rules that the settings make."""
    return Rules(settings.sync_interval, settings.sync_api_calls_per_day, settings.sync_api_budget)


def read_plan(connection: Connection, rules: Rules, usage: Usage | None = None) -> tuple[Plan, Stored]:
    """Return the plan of this moment, and what was stored before it.

    `usage` is what Salesforce told this process (None: nothing so far; then what another process stored).
    """
    stored = calls.read_stored(connection)
    used, limit = (usage.used, usage.limit) if usage is not None else (None, stored.limit)
    if usage is None:
        fresh = stored.seen_at is not None and stored.at - stored.seen_at < FRESH
        used = stored.used if fresh else None
    spent = calls.read_spent(connection)
    plan = make_plan(spent, rules, stored.at, used=used, limit=limit, before=stored.deferred)
    return plan, stored


def current_plan(context: SyncContext) -> Plan:
    """Return the plan of this moment; store what is deferred, and sometimes the org's usage."""
    usage = context.session.usage
    with transaction(context.engine) as connection:
        plan, stored = read_plan(connection, rules_of(context.settings), usage)
        deferred = {one.work: one.since for one in plan.deferred}
        old = stored.seen_at is None or stored.at - stored.seen_at >= STORE_EACH
        seen = usage is not None and (old or usage.limit != stored.limit)
        if deferred == stored.deferred and not seen:
            return plan
        found = replace(stored, deferred=deferred)
        if usage is not None:
            found = replace(found, used=usage.used, limit=usage.limit, seen_at=stored.at)
        calls.save(connection, found)
    if new := [one for one in plan.deferred if one.work not in stored.deferred]:
        log.warning("work_deferred", work=",".join(one.work for one in new), reason=new[0].reason)
    if over := [work for work in stored.deferred if work not in deferred]:
        log.info("work_resumed", work=",".join(over), used=plan.used, allowance=plan.allowance)
    return plan


def next_interval(context: SyncContext) -> timedelta:
    """Return the time to wait now between two passes of the worker: SYNC_INTERVAL, or longer where the plan
    says so. Without the database it is SYNC_INTERVAL."""
    try:
        return current_plan(context).interval
    except SyncError as error:
        log.info("interval_unplanned", reason=str(error)[:200])
        return context.settings.sync_interval


def may_run(context: SyncContext, work: str) -> bool:
    """Return whether this kind of work (`calls.ON_DEMAND`, `calls.REFRESH`, `calls.VERIFY`) may begin now."""
    return context.ignore_budget or not current_plan(context).refusal(work)


def may_verify(context: SyncContext, name: str) -> bool:
    """Return whether the nightly verify of an object may begin: by the plan, or because the last one is too
    long ago."""
    plan = current_plan(context)
    if not plan.refusal(VERIFY):
        return True
    with transaction(context.engine) as connection:
        last, now = journal.last_verify(connection, name)
    return not plan.stopped and last is not None and now - last >= LONGEST_UNVERIFIED


def check(context: SyncContext) -> None:
    """Raise DeferredError if the plan does not let the work of an operator's command begin now.

    `--ignore-budget` skips this.
    """
    check_work(context, OF_COMMAND.get(context.command, OTHER))


def check_work(context: SyncContext, work: str) -> None:
    """Raise DeferredError if the plan does not let this kind of work begin now."""
    if not context.ignore_budget and (reason := current_plan(context).refusal(work)):
        raise DeferredError(f"{reason}; {remedy(context)}")


def check_usage(context: SyncContext) -> None:
    """Raise DeferredError if Salesforce has told this process that the org uses more of its daily requests
    than SYNC_API_BUDGET.

    `--ignore-budget` skips this.
    """
    usage = context.session.usage
    if context.ignore_budget or usage is None:
        return
    if reason := stop_reason(usage.used, usage.limit, context.settings.sync_api_budget):
        raise DeferredError(f"{reason}; {remedy(context)}")


def remedy(context: SyncContext) -> str:
    """Return when deferred work goes on, and how an operator begins it now."""
    if context.command in ("worker", "request"):
        return "work resumes when the usage drops below the budget"
    command = context.typed or f"python -m sync {context.command}"
    return f"try again later, or do it now all the same: {command} --ignore-budget"
