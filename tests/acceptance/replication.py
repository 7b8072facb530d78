"""The facts about getUpdated, getDeleted, stamps and deletes, on marked records of their own; their lags are timed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import requests

from tests.acceptance.client import Client, codes, minute, ok, said
from tests.acceptance.findings import Findings, UnexpectedAnswerError
from tests.acceptance.records import Marked
from tests.acceptance.story import Pace, moment

STAMPS = ("Id", "IsDeleted", "SystemModstamp", "LastModifiedDate")


def probe(client: Client, marked: Marked, findings: Findings, pace: Pace) -> None:
    """Try the facts of B.7 and B.8."""
    with findings.probing("B.7.1", "B.7.2", "B.7.3", "B.7.4", "B.7.5", "B.7.6"):
        windows(client, findings)
    with findings.probing("B.7.7", "B.7.8", "B.7.9", "B.7.10", "B.8.1", "B.8.2", "B.8.3", "B.8.4", "B.8.5"):
        lives(client, marked, findings, pace)
    findings.not_tried("B.7.11", why="it takes 15 days")
    findings.not_tried("B.8.6", "B.8.7", why="REST cannot merge or undelete")
    findings.not_tried("B.8.8", why="the marked records have no calculated field of a known formula")


def windows(client: Client, findings: Findings) -> None:
    """What the replication calls answer, and which windows they refuse."""
    now = minute(client.now())
    answer = client.replication("Contact", "updated", minute(now, -1), now)
    if findings.check("B.7.3", answer.status_code == 200, said(answer)):
        body = answer.json()
        findings.check("B.7.1", {"ids", "latestDateCovered"} <= body.keys(), names(body))
        covered = moment(body["latestDateCovered"])
        findings.check("B.7.6", covered <= now, f"{(covered - now).total_seconds():+,.0f} s from the end")
    body = ok(client.replication("Contact", "deleted", minute(now, -60), now))
    wanted = {"deletedRecords", "earliestDateAvailable", "latestDateCovered"}
    findings.check("B.7.2", wanted <= body.keys(), names(body))
    for fact, start in (("B.7.4", now), ("B.7.5", now - timedelta(days=31))):
        answer = client.replication("Contact", "updated", start, now)
        findings.check(fact, codes(answer) == ["INVALID_REPLICATION_DATE"], said(answer))


def names(body: dict[str, object]) -> str:
    """The keys of an answer."""
    return ", ".join(sorted(body))


def lives(client: Client, marked: Marked, findings: Findings, pace: Pace) -> None:
    """Records made, changed and deleted, and when the replication calls tell so."""
    before = client.now()
    account = marked.create("Account", "probe")
    contact = marked.create("Contact", "probe", AccountId=account)
    made, at = marked.read("Contact", contact, *STAMPS), pace.now()
    after = client.now()
    stamp = moment(made["SystemModstamp"])
    second = timedelta(seconds=1)
    early, late = (stamp - before).total_seconds(), (after - stamp).total_seconds()
    note = f"{early:+,.0f} s from the Date before it, {late:+,.0f} s to the Date after it"
    findings.check("B.8.2", before - second <= stamp <= after + second, note)
    covered_after(client, findings, pace, contact, stamp, at)

    marked.update("Contact", contact, Title="changed")
    edited = marked.read("Contact", contact, *STAMPS)
    pace.wait(2)  # stamps have whole seconds
    marked.update("Contact", contact, AccountId=None)
    moved = marked.read("Contact", contact, *STAMPS)
    marked.update("Contact", contact, AccountId=account)
    seen = [moment(each["SystemModstamp"]) for each in (made, edited, moved)]
    findings.check("B.8.3", seen[0] < seen[1] < seen[2], "by an edit and by another parent")

    pace.wait(2)
    marked.delete("Account", account)
    deleted, at = marked.read("Contact", contact, *STAMPS), pace.now()
    owner = marked.read("Account", account, *STAMPS)
    findings.check("B.8.5", deleted["IsDeleted"] is True, "the contact of a deleted account")
    findings.check(
        "B.8.4", owner["IsDeleted"] is True and moment(deleted["SystemModstamp"]) > seen[2], "of both records"
    )
    everything = (made, edited, moved, deleted, owner)
    later = [each for each in everything if each["LastModifiedDate"] > each["SystemModstamp"]]
    findings.check("B.8.1", not later, f"of {len(everything)} versions")
    logged_after(client, findings, pace, {"Account": account, "Contact": contact}, at)
    listed = ok(client.replication("Contact", "updated", minute(stamp, -1), minute(client.now())))["ids"]
    findings.check("B.7.8", contact not in listed, "after getDeleted lists it")


def covered_after(
    client: Client, findings: Findings, pace: Pace, contact: str, stamp: datetime, at: float
) -> None:
    """Wait until getUpdated covers a created record; measure how long it takes, and the lag of each answer."""
    lags: list[float] = []

    def covered() -> bool:
        now = client.now()
        body = ok(client.replication("Contact", "updated", minute(stamp, -1), minute(now)))
        through = moment(body["latestDateCovered"])
        lags.append((now - through).total_seconds())
        if through > stamp:
            findings.check("B.7.7", contact in body["ids"], "in the first window that covers it")
        return through > stamp

    if until(covered, pace):
        findings.measure("from a commit until getUpdated covers it", f"{pace.now() - at:,.0f} s")
    else:
        findings.not_tried("B.7.7", why=f"not covered within {pace.patience:,.0f} s")
    lags.sort()
    median = lags[len(lags) // 2]
    findings.measure(
        "latestDateCovered behind the clock",
        f"median {median:,.0f} s, worst {lags[-1]:,.0f} s of {len(lags)}",
    )


def logged_after(client: Client, findings: Findings, pace: Pace, deleted: dict[str, str], at: float) -> None:
    """Wait until getDeleted lists a deleted account and its contact; measure how long it takes."""
    facts = {"Account": "B.7.9", "Contact": "B.7.10"}
    for sobject, record_id in deleted.items():

        def listed(sobject: str = sobject, record_id: str = record_id) -> bool:
            now = minute(client.now())
            answer: requests.Response = client.replication(
                sobject, "deleted", now - timedelta(minutes=30), now
            )
            records = {each["id"][:15]: each for each in ok(answer)["deletedRecords"]}
            found = records.get(record_id[:15])
            if found is not None:
                findings.check(facts[sobject], "deletedDate" in found)
            return found is not None

        if until(listed, pace):
            what = f"from a delete until getDeleted lists it ({sobject})"
            findings.measure(what, f"{pace.now() - at:,.0f} s")
        else:
            findings.check(facts[sobject], holds=False, note=f"not listed within {pace.patience:,.0f} s")


def until(condition: Callable[[], bool], pace: Pace) -> bool:
    """Wait for a condition; False if it does not come true in time. A single failed look is no failure."""
    ends = pace.now() + pace.patience
    while True:
        try:
            if condition():
                return True
        except (UnexpectedAnswerError, requests.RequestException):
            if pace.now() >= ends:
                raise
        if pace.now() >= ends:
            return False
        pace.wait(pace.pause)
