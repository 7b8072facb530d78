"""The limit: what nobody can be faster than on this machine, with nothing between wire and table.

The same pages of the same query downloaded one after the other and thrown away, and the same rows put into an
identical keyed table by psql.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from sync.postgres.tables import REPLICA, REPLICAS
from sync.salesforce import soql
from sync.window import Scope
from tests.benchmarks.database import Database
from tests.benchmarks.measure import OBJECTS, REST
from tests.benchmarks.org import Org

NEXT = re.compile(rb'"nextRecordsUrl"\s*:\s*"([^"]+)"')
DONE = re.compile(rb'"done"\s*:\s*true')
HEAD = 2_000  # bytes of a page in which its next one is named
MAX_RECORDS = 50_000
PAUSE = 0.2  # seconds between two looks at a job


def download(org: Org, transport: str) -> float:
    """Seconds that the pages of all objects take, one after the other."""
    if transport == REST:
        queries = {name: soql.select(org.projection(name), Scope(), None) for name in OBJECTS}
        headers = org.log_in()
        started = time.monotonic()
        for query in queries.values():
            for _ in rest_pages(org, headers, query):
                pass
        return time.monotonic() - started
    headers = org.log_in()
    jobs = [completed_job(org, headers, name) for name in OBJECTS]
    started = time.monotonic()
    for job in jobs:
        for _ in bulk_pages(org, headers, job):
            pass
    seconds = time.monotonic() - started
    for job in jobs:
        org.http.delete(job, headers=headers, timeout=600).raise_for_status()
    return seconds


def rest_pages(org: Org, headers: dict[str, str], query: str) -> Iterator[bytes]:
    """The bodies of a query's pages; of each only the address of the next is looked at."""
    url = f"{org.data}/queryAll?{urlencode({'q': query})}"
    while url:
        answer = org.http.get(url, headers=headers, timeout=600)
        answer.raise_for_status()
        body = answer.content
        yield body
        next_url = NEXT.search(body, 0, HEAD)
        if next_url is None and not DONE.search(body, 0, HEAD):
            raise RuntimeError(f"no next page, and not the last one: {body[:HEAD]!r}")
        url = org.url + next_url[1].decode() if next_url else ""


def completed_job(org: Org, headers: dict[str, str], name: str) -> str:
    """The address of a job that has read an object, in any order."""
    query = soql.select_unordered(org.projection(name), Scope())
    body = {"operation": "queryAll", "query": query}
    answer = org.http.post(f"{org.data}/jobs/query", headers=headers, json=body, timeout=600)
    answer.raise_for_status()
    job = f"{org.data}/jobs/query/{answer.json()['id']}"
    while (info := org.http.get(job, headers=headers, timeout=600).json())["state"] != "JobComplete":
        if info["state"] in ("Failed", "Aborted"):
            raise RuntimeError(f"the Bulk job of {name} ended as {json.dumps(info)}")
        time.sleep(PAUSE)
    return job


def bulk_pages(org: Org, headers: dict[str, str], job: str) -> Iterator[bytes]:
    """The bodies of a job's result pages."""
    locator = ""
    while locator != "null":
        page = {"maxRecords": MAX_RECORDS} | ({"locator": locator} if locator else {})
        answer = org.http.get(f"{job}/results", params=page, headers=headers, timeout=600)
        answer.raise_for_status()
        yield answer.content
        locator = answer.headers["Sforce-Locator"]


def copy(database: Database, folder: Path) -> float:
    """Seconds that psql takes to put the rows of the product's own tables into tables like them."""
    seconds = 0.0
    for name in OBJECTS:
        table = REPLICA[name].name
        file = folder / f"{table}.copy"
        database.psql(rf"\copy {REPLICAS}.{table} TO '{file}'")
        database.psql(
            "CREATE SCHEMA IF NOT EXISTS bench",
            f"DROP TABLE IF EXISTS bench.{table}",
            f"CREATE TABLE bench.{table} (LIKE {REPLICAS}.{table} INCLUDING DEFAULTS, PRIMARY KEY (id))",
        )
        database.settle()
        started = time.monotonic()
        database.psql(rf"\copy bench.{table} FROM '{file}'")
        seconds += time.monotonic() - started
        file.unlink()
    return seconds
