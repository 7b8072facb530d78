"""The output of commands: tables on a terminal, plain lines or JSON elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from rich.padding import Padding
from rich.text import Text

from sync.cli.screen import (
    COLOURS,
    Grid,
    clean,
    console,
    flush,
    print_json,
    put,
    say,
    table,
    write,
)
from sync.operations.alerts.incidents import describe
from sync.operations.audit.findings import Finding
from sync.operations.audit.mapped import Mapped
from sync.operations.calls import describe_calls
from sync.operations.erasure import Erased, Match
from sync.operations.formats import format_bytes, format_duration, format_utc, truncate
from sync.operations.pruning import Pruned
from sync.operations.running import Running
from sync.operations.status import Rejected, Run, Status, describe_count
from sync.postgres.consumers import Backlog
from sync.postgres.feed import Change
from sync.postgres.pruning import Size
from sync.replication.budget.estimates import Estimate
from sync.replication.rejects import Group
from sync.replication.runs import Report

STATUS_VERSION = 1  # of `status --json`; it grows when a name in it changes its meaning or goes
WIDE = 120  # characters of a terminal that shows a finding and its remedy side by side


def reports(done: Sequence[Report]) -> None:
    """Print what a run did, for each object."""
    columns = ("object", "read", "inserted", "updated", "deleted", "unchanged", "rejected", "API calls")
    rows = []
    for report in done:
        t = report.tally
        counts = (t.read, t.inserted, t.updated, t.deleted, t.unchanged, t.rejected, report.api_calls)
        rows.append([report.object, *(f"{count:,}" for count in counts)])
    table("", columns, rows)


def verified(done: Sequence[Report], *, as_json: bool) -> None:
    """Print what a verify found and repaired, for each object, then the records."""
    found = [(report, report.findings or {}) for report in done]
    if as_json:
        print_json(
            [{"object": report.object, "api_calls": report.api_calls, **what} for report, what in found]
        )
        return
    counts = (
        *("missing", "stale", "gone", "values", "unfit", "rejected", "accepted", "mended", "remaining"),
        *("erased", "listed", "buckets", "compared"),
    )
    rows = [
        [
            report.object,
            format_utc(datetime.fromisoformat(what["through"])),
            *(f"{what[c]:,}" for c in counts),
            report.api_calls,
        ]
        for report, what in found
    ]
    dispensable = (
        *("compared", "buckets", "listed", "erased", "accepted", "unfit", "rejected", "API calls", "values"),
        *("mended", "through"),
    )
    table("", ("object", "through", *counts, "API calls"), rows, dispensable=dispensable)
    for report, what in found:
        for difference in what["differences"]:
            fields = f" ({', '.join(difference['fields'])})" if difference["fields"] else ""
            say(f"{report.object} {difference['id']} {difference['kind']}{fields}")
        if what["fields"]:
            moving = ", ".join(what["fields"])
            say(f"{report.object}: {moving} changed without a stamp: candidates for SYNC_VOLATILE_FIELDS")
        for reason, count, accepted in what["reasons"]:
            known = (
                "accepted" if accepted else f"to list them: python -m sync rejects --object {report.object}"
            )
            say(f"{report.object}: {describe_count(count)} not stored, rejected: {reason}; {known}")
        if what["remaining"]:
            different = what["remaining"] - what["rejected"]
            command = f"python -m sync verify --object {report.object} --repair"
            tail = f"; type: {command}" if different else ""
            say(f"{report.object}: {differences(what['remaining'])}{tail}")
        elif sum(what[kind] for kind in ("missing", "stale", "gone", "values", "unfit")):
            say(f"{report.object}: all of them mended")
        else:
            say(f"{report.object}: equal" + (" but for what is accepted" if what["accepted"] else ""))


def differences(count: int) -> str:
    return "1 difference remains" if count == 1 else f"{count:,} differences remain"


def estimates(found: Sequence[Estimate]) -> None:
    """Print what a resync or a verify would take."""
    table("", ("object", "records", "API calls"), [(e.object, f"{e.records:,}", e.api_calls) for e in found])
    say("dry run: nothing was changed")


def findings(found: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in found])
        return
    if not sys.stdout.isatty() or console().width >= WIDE:
        rows = [(f.subject, f.state, f.detail, f.remedy) for f in found]
        table("", ("", "state", "what was found", "what to do"), rows)
        return
    for finding in found:
        line = Text.assemble(
            (f"{finding.state:7}", COLOURS[finding.state]),
            f" {clean(finding.subject)}: {clean(finding.detail)}",
        )
        console().print(Padding(line, 0))
        if finding.remedy:
            console().print(Padding(Text(f"→ {clean(finding.remedy)}"), (0, 0, 0, 8)))


def mapping(lines: Sequence[Mapped], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    columns = ("object", "field", "column", "kept as", "Salesforce type", "state")
    table(
        "",
        columns,
        [(m.object, m.field, m.column, m.kept_as, m.type, m.state) for m in lines],
        dispensable=("Salesforce type", "kept as"),
        prose=("column",),
    )


def reject_groups(found: Sequence[Group], *, as_json: bool) -> None:
    """Print the rejected records by reason."""
    if as_json:
        print_json([asdict(group) for group in found])
        return
    if not found:
        say("no record is rejected")
        return
    columns = ("object", "reason", "records", "since", "last seen", "accepted")
    rows = [
        (
            g.object,
            g.reason,
            f"{g.records:,}",
            format_utc(g.since),
            format_utc(g.latest),
            "yes" if g.accepted else "no",
        )
        for g in found
    ]
    table("", columns, rows)
    say("the records: python -m sync rejects --all")


def rejects(found: Sequence[Rejected], *, as_json: bool) -> None:
    """Print the rejected records one by one; JSON includes the whole record."""
    if as_json:
        print_json([asdict(reject) | {"record": json.loads(reject.record)} for reject in found])
        return
    if not found:
        say("no record is rejected")
        return
    columns = ("object", "record", "reason", "first seen", "last seen")
    rows = [
        (r.object, r.record_id, r.reason, format_utc(r.first_seen), format_utc(r.last_seen)) for r in found
    ]
    table("", columns, rows)


def matches(found: Sequence[Match]) -> None:
    """Print the records found by an e-mail address, without their values."""
    if not found:
        say("no record holds this e-mail address")
        return
    table(
        "",
        ("object", "record", "state", "found in"),
        [(m.object, m.id, m.state, ", ".join(m.fields)) for m in found],
    )


def erased(done: Erased) -> None:
    """Print what was erased, and what is out of reach."""
    for name, ids in done.ids.items():
        for id_ in ids:
            say(f"{name} {id_} erased: it will not be stored again")
        say(f"{name}: {done.rows[name]:,} of {len(ids):,} had a row, which keeps Id, stamp and the reason")
    for id_, survivor in done.survivors:
        command = f"python -m sync erase --id {survivor}"
        say(f"{id_} was merged into {survivor}, which may hold the same person: {command}")
    say(
        "not erased: Salesforce itself, backups and logs of this database, consumers' own copies (they get "
        "`erase` from the feed), and a record that is created again with another Id"
    )


def lifted(found: Mapping[str, Sequence[str]]) -> None:
    """Print what may be stored again."""
    for name, ids in found.items():
        for id_ in ids:
            say(f"{name} {id_} may be stored again: the next pass reads it")
    if not found:
        say("none of these records was erased")


def pruned(found: Sequence[Pruned], *, dry_run: bool) -> None:
    """Print what was pruned, or would be."""
    for one in found:
        what = f"{one.rows:,} rows" if one.through is None else f"the feed through {one.through}"
        if one.waiting:
            say(
                f"{one.what}: {what} ({format_bytes(one.bytes)}) could not be locked: a reader has it open; "
                "type again: python -m sync prune"
            )
        else:
            space = f" ({format_bytes(one.bytes)})" if one.bytes else ""
            say(f"{one.what}: {what}{space} {'would be removed' if dry_run else 'removed'}")
    if not found:
        say("nothing is older than it is kept")


def describe_size(found: Size, limit: int | None) -> str:
    """Return the size of the database, its growth and the days that are left, as one line."""
    grows = "" if found.daily is None else f", {format_bytes(found.daily)} more a day"
    left = found.days_left(limit)
    if limit is None:
        ends = "limit unknown: set SYNC_DATABASE_LIMIT to the plan's size, for example 1GB"
    else:
        ends = f"of {format_bytes(limit)}" + ("" if left is None else f", reached in {left:,.0f} days")
    return f"database: {format_bytes(found.bytes)}{grows}; {ends}"


def status(found: Status, *, as_json: bool) -> None:
    """Print the state of the replication."""
    if as_json:
        print_json(status_document(found))
    else:
        put(*status_parts(found))


def status_document(found: Status) -> dict[str, object]:
    """Return what `status --json` prints."""
    return {"version": STATUS_VERSION, **asdict(found)}


def status_parts(found: Status) -> Iterator[Text | Grid]:
    """Yield what `status` prints, from the top."""
    word, _, rest = found.headline.partition(":")
    yield Text.assemble((word, COLOURS.get(word, "white")), ":", clean(rest))
    for one in found.incidents:
        yield Text(clean(f"incident: {describe(one)}"))
    columns = ("object", "complete through", "lag", "rows", "tombstones", "rejects", "last run", "verified")
    dispensable = ("tombstones", "verified", "complete through", "rejects", "last run")
    rows = [
        (
            f.object,
            format_utc(f.complete_through) if f.complete_through else "never",
            format_duration(f.lag) if f.lag is not None else "-",
            f"{'~' if f.estimated else ''}{f.rows:,}",
            f"{'~' if f.estimated else ''}{f.tombstones:,}",
            f"{f.rejects:,}",
            last_run(f.last_outcome, f.last_finished_at),
            format_utc(f.verified_through) if f.verified_through else "never",
        )
        for f in found.objects
    ]
    yield Grid("", columns, rows, dispensable)
    for run in found.running:
        yield Text(clean(describe_running(run, found.at)))
    for warning in found.warnings:
        yield Text(clean(f"warning: {warning}"))
    yield Text(clean(describe_calls(found.calls)))
    yield Text(clean(describe_size(found.size, found.size_limit)))
    if found.consumers:
        yield Grid(
            "consumers of the feed", CONSUMER_COLUMNS, list(map(consumer_row, found.consumers)), ("objects",)
        )
    yield from last_runs(found)


CONSUMER_COLUMNS = ("consumer", "objects", "not acknowledged", "oldest", "state")


def consumer_row(one: Backlog) -> tuple[str, ...]:
    """Return a consumer of the feed as a row of a table."""
    oldest = "-" if one.age is None else f"{format_duration(one.age)} ago"
    objects = "all" if one.objects is None else ", ".join(one.objects)
    return one.label, objects, f"{one.entries:,}", oldest, "has to reload" if one.lost else "follows"


def describe_running(one: Running, at: datetime) -> str:
    """Return what a run that is going on has done so far, as one line."""
    speed = "" if one.rows_per_second is None else f" ({one.rows_per_second:,.0f} rows/s)"
    return (
        f"{one.object}: {one.command} for {format_duration(at - one.started_at)}, "
        f"{one.read:,} rows read{speed}, {one.api_calls:,} API calls"
    )


LEAST_OF_RUNS = ("same", "calls", "rej", "del", "upd", "ins", "read", "command", "outcome")


def last_run(outcome: str | None, finished: datetime | None) -> str:
    return f"{outcome} {format_utc(finished)}" if outcome and finished else "none"


def command_of(run: Run) -> str:
    """Return the command of a run, with how many passes its entry stands for."""
    return f"{run.command} ×{run.passes}" if run.passes > 1 else run.command


def last_runs(found: Status) -> Iterator[Text | Grid]:
    """Yield the last runs; on a terminal a reason, which is a sentence, stands below the table."""
    columns = (
        "run",
        "object",
        "command",
        "started",
        "outcome",
        "read",
        "ins",
        "upd",
        "del",
        "same",
        "rej",
        "calls",
        "error",
    )
    rows = []
    for r in found.runs:
        counts = (r.read, r.inserted, r.updated, r.deleted, r.unchanged, r.rejected, r.api_calls)
        rows.append(
            [
                *(r.id, r.object, command_of(r), format_utc(r.started_at), r.outcome),
                *(f"{count:,}" for count in counts),
                truncate(r.error) if r.error else "",
            ]
        )
    if not rows:
        return
    yield Text()
    if not sys.stdout.isatty():
        yield Grid("last runs", columns, rows)
        return
    yield Grid("last runs", columns[:-1], [row[:-1] for row in rows], dispensable=LEAST_OF_RUNS)
    for row in rows:
        if row[-1]:
            yield Text(clean(f"run {row[0]}, {row[1]}: {row[-1]}"))


def changes(stream: Iterable[Change], *, as_json: bool) -> None:
    """Print the feed line by line; a pipe gets each entry at once."""
    for change in stream:
        if as_json:
            read = print_json(asdict(change))
        else:
            changed = f" ({', '.join(change.changed)})" if change.changed else ""
            at = f"{change.at:%Y-%m-%dT%H:%M:%SZ}"
            into = f" into {change.survivor_id}" if change.survivor_id else ""
            line = f"{change.seq} {at} {change.object} {change.record_id or '*'} {change.op}{into}{changed}"
            read = write(clean(line) + "\n")
        if not (read and flush()):
            return
