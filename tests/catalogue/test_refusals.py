"""Values that a column cannot hold are refused before Postgres sees them: its log quotes what it refuses."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.catalogue import transform, values
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import (
    DescribedField,
    Kind,
    Projection,
    project,
)
from sync.catalogue.transform import build
from sync.demo import embedded
from sync.errors import ConfigError
from sync.operations.audit import checks, findings
from sync.postgres import tables
from sync.postgres.load import merge
from sync.postgres.tables import transaction
from tests.conftest import administer
from tests.support.world import World

CANARY = "Canary"
CUSTOM = {
    "Note__c": "string",
    "Score__c": "double",
    "Tags__c": "multipicklist",
    "Vip__c": "boolean",
    "Met__c": "datetime",
    "Due__c": "date",
    "Seats__c": "int",
}
OUT_OF_RANGE = "number out of range"
# What Postgres would refuse, or read as something else, with what is said of it.
REFUSED: dict[Kind, tuple[tuple[Any, str], ...]] = {
    Kind.ID: (("003" + CANARY, "an Id has 18 characters"), ("x" * 3000 + CANARY, "an Id has 18 characters")),
    Kind.REFERENCE: (
        ("é" * 3000 + CANARY, "an Id has 18 characters"),
        (CANARY * 4, "an Id has 18 characters"),
    ),
    Kind.TEXT: (
        (CANARY + "\ud800", "half of a surrogate pair, or bytes that are no UTF-8"),
        (CANARY + "\udcff", "half of a surrogate pair, or bytes that are no UTF-8"),
        ({CANARY: 1}, "expected text, got an object"),
    ),
    Kind.MULTIPICKLIST: ((CANARY + ";\udfff", "half of a surrogate pair, or bytes that are no UTF-8"),),
    Kind.BOOLEAN: ((CANARY, "not true or false"), ("on", "not true or false")),
    Kind.INTEGER: (
        (CANARY, "not a number"),
        ("9223372036854775808", OUT_OF_RANGE),
        ("-9223372036854775809", OUT_OF_RANGE),
        ("1E400", OUT_OF_RANGE),
        ("4711.5", "not a whole number"),
        ("NaN", "not a number"),
    ),
    Kind.NUMBER: (
        (CANARY, "not a number"),
        ("4711E131069", OUT_OF_RANGE),
        ("1E-16384", OUT_OF_RANGE),
        ("4.711E-16383", OUT_OF_RANGE),
        ("0." + "0" * 16380 + "4711", OUT_OF_RANGE),
        ("4711." + "0" * 16383 + "1", OUT_OF_RANGE),
        ("1E999999999999999999999", OUT_OF_RANGE),
        ("Infinity", "not a number"),
        ("0x4711", "not a number"),
    ),
    Kind.DATE: (
        (CANARY, "not a date"),
        ("4711-02-30", "not a date"),
        ("infinity", "not a date"),
        ("294277-01-01", "not a date"),
        ("0000-01-01", "not a date"),
        ("4711-01-01 BC", "not a date"),
    ),
    Kind.DATETIME: (
        (CANARY, "not a date and time"),
        ("0001-01-01T00:00:00+14:00", "date and time out of range"),
        ("9999-12-31T23:59:59-14:00", "date and time out of range"),
        ("4711-02-30T00:00:00.000+0000", "not a date and time"),
        ("4711-01-01T00:00:00", "a date and time without its zone"),
        ("now", "not a date and time"),
    ),
}
# What Postgres takes, though only in another form than Python reads it, or but for a little more.
TAKEN: dict[Kind, tuple[str, ...]] = {
    Kind.REFERENCE: ("001", "00x000000000000AAA"),
    Kind.TEXT: (
        "a\0b",
        "\\.",
        "\\N",
        "\\",
        "a\tb\r\nc",
        '{"x": "\\u0000"}',
        "\U0001f469\u200d",
        "x" * 300_000,
    ),
    Kind.MULTIPICKLIST: (";;;", 'a";\\;{};NULL;,', "a\0;b", "\\", '"'),
    Kind.BOOLEAN: ("true", "false"),
    Kind.INTEGER: ("9223372036854775807", "-9223372036854775808", "4.0E2", "-0.0"),
    Kind.NUMBER: (
        "9" * 131_072,
        "1E131071",
        "1E-16383",
        "1.5E-16382",
        "-0",
        "+.5",
        "5.",
        "0." + "1" * 16_383,
    ),
    Kind.DATE: ("0001-01-01", "9999-12-31", "20260131", "2026-W05-6"),
    Kind.DATETIME: (
        *("2026-01-31T00:00:00+20:00", "2026-01-31T00:00:00-23:59", "2026-W05-6T00:00:00.000Z"),
        *("2026-01-31x00:00:00.000+0000", "2026-01-31T00:00:00+00:00:00.000001", "0001-01-01T00:00:00.000Z"),
        *("9999-12-31T23:59:59.999Z", "2026-01-31 00:00:00.000Z", "20260131T000000Z"),
    ),
}
NUMBERS = count(1)


def projection(name: str) -> Projection:
    """The whole of an object, with custom fields of each type."""
    sobject = CATALOGUE[name]
    described = [DescribedField(f.name, f.kind.value[0], custom=False) for f in sobject.fields]
    return project(
        sobject, [*described, *(DescribedField(n, kind, custom=True) for n, kind in CUSTOM.items())]
    )


PROJECTIONS = {name: projection(name) for name in CATALOGUE}


def a_record(fitted: Projection, **values: Any) -> list[Any]:
    given = {
        "Id": f"{fitted.sobject.prefix}000000{next(NUMBERS):06d}AAA",
        "IsDeleted": "false",
        "SystemModstamp": "2026-01-31T12:00:00.000+0000",
    } | values
    return [given.get(name, "") for name in fitted.names]


def cases(bank: dict[Kind, Any]) -> Iterator[tuple[Projection, str, Any]]:
    """Every value of a bank in fields of its kind: the first ones, and those that are looked up, and custom ones."""
    for fitted in PROJECTIONS.values():
        often = Counter[Kind]()
        for field in fitted.fields:
            often[field.kind] += 1
            derived = {each.column for each in field.derived} & set(fitted.sobject.lookups)
            if often[field.kind] > 3 and field.column not in fitted.sobject.lookups and not derived:
                continue
            for value in bank.get(field.kind, ()):
                if field.name not in transform.REQUIRED or bank is REFUSED:
                    yield fitted, field.name, value
        for name, kind in CUSTOM.items():
            known = next(each for each in bank if kind in each.value)
            for value in bank[known]:
                yield fitted, name, value


def custom_takes(name: str, value: Any) -> bool:
    """Custom dates and whole numbers are kept as JSON has them: fewer of their values are refused."""
    kind = CUSTOM.get(name)
    surrogate = isinstance(value, str) and re.search("[\ud800-\udfff]", value)
    number = kind == "int" and isinstance(value, str) and re.fullmatch(r"[-+\d.]+|1E400", value)
    return bool(number) or (kind in ("date", "datetime") and not surrogate)


@pytest.fixture(scope="module")
def own_server(server: str) -> Iterator[tuple[str, Path]]:
    """A server with its default log settings, and the file that it logs to."""
    import os

    with ExitStack() as stack:
        url = stack.enter_context(embedded.postgres()) if "TEST_DATABASE_URL" in os.environ else server
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
        with engine.connect() as connection:
            folder = connection.execute(text("SHOW data_directory")).scalar_one()
        yield url, Path(folder) / "log"


@contextmanager
def logged(log: Path) -> Iterator[list[str]]:
    """What the server logs meanwhile."""
    lines: list[str] = []
    before = log.stat().st_size
    yield lines
    time.sleep(0.05)
    with log.open("rb") as file:
        file.seek(before)
        lines += file.read().decode("utf-8", "replace").splitlines()


@pytest.fixture
def own_database(own_server: tuple[str, Path], database: str) -> Iterator[str]:
    """A migrated database on that server."""
    url, _ = own_server
    if make_url(url).query == make_url(database).query:
        yield database
        return
    name = "sync_refusals"
    administer(url, f"CREATE DATABASE {name}")
    made = make_url(url).set(database=name)
    embedded.migrate(create_engine(made, poolclass=NullPool))
    yield made.render_as_string(hide_password=False)


@pytest.mark.parametrize("announce", [True, False], ids=["merge", "first load"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_no_value_reaches_the_servers_log(
    own_database: str, own_server: tuple[str, Path], announce: bool, name: str
) -> None:
    """All reject cases and all border cases, in pages of many: what fits is stored, and Postgres refuses nothing."""
    fitted = PROJECTIONS[name]
    engine = tables.engine(make_url(own_database).set(drivername="postgresql+psycopg2"), owner="test")
    refused = [case for case in cases(REFUSED) if case[0] is fitted]
    taken = [case for case in cases(TAKEN) if case[0] is fitted]
    records = [a_record(fitted, **{field: value[0]}) for _, field, value in refused]
    records += [a_record(fitted, **{field: value}) for _, field, value in taken]
    records += [a_record(fitted, **look_up) for look_up in long_look_ups(fitted)]
    batch = build(fitted, records, "US")
    with logged(own_server[1]) as lines, transaction(engine) as connection:
        tally = merge.merge(connection, fitted, batch, 1, announce=announce)
        reasons = [row[0] for row in connection.execute(text("SELECT reason FROM sync.reject"))]
    engine.dispose()

    assert not [line for line in lines if re.search("ERROR|STATEMENT|CONTEXT|DETAIL", line)], lines
    assert not [line for line in lines if re.search(f"{CANARY}|4711", line)], lines
    assert tally.rejected == len(batch.rejects)
    assert tally.inserted == len(records) - len(batch.rejects)
    assert not [reason for reason in reasons if re.search(f"{CANARY}|4711|Postgres", reason)]


def long_look_ups(fitted: Projection) -> Iterator[dict[str, str]]:
    """Values that the derived look-up columns just hold, in the longest letters, and that do not compress."""
    wide = "".join(chr(0x20000 + number * 7919 % 0xA000) for number in range(400))
    names = {field.name for field in fitted.fields}
    if "Email" in names:
        yield {"Email": wide[:310] + "@example.c"}
    if "Website" in names:
        yield {"Website": f"https://{wide[:60]}.{wide[60:120]}.{wide[120:180]}.{wide[180:240]}.example"}
    for phone in {"Phone", "MobilePhone"} & names:
        yield {phone: "+1 415 555 2671 " + wide}


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_reason_is_a_field_and_a_class(name: str) -> None:
    """A reason names the field and what is wrong, and never quotes the value, which the record has."""
    for fitted, field, (value, reason) in cases(REFUSED):
        if fitted is not PROJECTIONS[name] or custom_takes(field, value):
            continue
        [reject] = build(fitted, [a_record(fitted, **{field: value})], "US").rejects
        assert reject.reason == f"{field}: {reason}", (field, value)


def test_what_an_index_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text in a look-up column that its index cannot hold is refused, raw or derived, by its bytes."""
    monkeypatch.setattr(values, "LONGEST_INDEXED", 40)
    contact = PROJECTIONS["Contact"]
    taken = build(contact, [a_record(contact, Email="a" * 28 + "@example.com")], "US")
    assert taken.rejects == ()
    for email in ("a" * 29 + "@example.com", "é" * 15 + "@example.com"):
        [reject] = build(contact, [a_record(contact, Email=email)], "US").rejects
        assert reject.reason == "Email: too long for the column's index"


def test_what_a_row_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record beyond all measure is refused, and the others of its page are stored."""
    monkeypatch.setattr(transform, "LONGEST_ROW", 2_000)
    contact = PROJECTIONS["Contact"]
    batch = build(contact, [a_record(contact, Description="é" * n) for n in (500, 1000, 10)], "US")
    assert [reject.reason for reject in batch.rejects] == ["record too long"]
    assert len(batch.lines) == 2


def test_the_last_resort_keeps_no_value(own_database: str, world: World) -> None:
    """Where Postgres refuses a record all the same, the class of its error is kept, and not its message."""
    world.sql("ALTER TABLE salesforce.contact ADD CONSTRAINT odd CHECK (title <> 'Canary')")
    world.org.create("Contact", {"LastName": "x", "Title": "Canary"})
    world.run()
    assert [row[0] for row in world.sql("SELECT reason FROM sync.reject")] == [
        "refused by Postgres: 23514 check_violation"
    ]


@pytest.mark.parametrize("code", ["22XYZ", "23505"])
def test_a_class_of_error_always_has_a_name(code: str) -> None:
    """An error that a trigger of somebody's own raises has a code that nobody knows."""

    class Odd(Exception):
        pgcode = code

    name = "unknown" if code == "22XYZ" else "unique_violation"
    assert merge.reject_reason(Odd("value")) == f"refused by Postgres: {code} {name}"


# ── encodings ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_character_is_refused(server: str, encoding: str) -> None:
    """Single records would be refused, and quoted in its log: it is refused at start, with what to type."""
    name = f"sync_encoding_{encoding.lower()}"
    administer(server, f"DROP DATABASE IF EXISTS {name}")
    administer(server, f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    url = make_url(server).set(database=name, drivername="postgresql+psycopg2")
    engine = tables.engine(url, owner="test")
    try:
        with (
            pytest.raises(ConfigError, match=rf"encoding {encoding}, and UTF8 is needed.*createdb"),
            transaction(engine),
        ):
            pass
        [finding] = findings.run_test("database", lambda: checks.database(engine))
        assert (finding.state, finding.code) == ("failed", 3)
    finally:
        engine.dispose()
        administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def test_the_encodings_remedy_works_when_typed(server: str) -> None:
    """The command makes a database that is taken, whatever the server's own encoding and locale."""
    administer(server, "CREATE DATABASE sync_remedy ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
    engine = tables.engine(
        make_url(server).set(database="sync_remedy", drivername="postgresql+psycopg2"), owner="test"
    )
    with transaction(engine) as connection:
        assert connection.execute(text("SHOW server_encoding")).scalar_one() == "UTF8"
    engine.dispose()
    administer(server, "DROP DATABASE sync_remedy WITH (FORCE)")
