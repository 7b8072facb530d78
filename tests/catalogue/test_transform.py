"""Values: from Salesforce's texts to what Postgres keeps, exactly, or a reject that says why not."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from sync.catalogue import transform, values
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import (
    Derived,
    DescribedField,
    Field,
    Kind,
    Projection,
    SObject,
    project,
)
from sync.catalogue.transform import (
    Batch,
    Record,
    Reject,
    build,
    normalise_email,
    website_host,
)
from sync.catalogue.values import UnrepresentableValueError
from sync.postgres.load import merge
from sync.salesforce.extract import rest
from tests.support.soak import some_of

ID, OTHER_ID = "003RO0000035WQgYAM", "003RO0000035WQhYAM"
MASTER = "003RO0000035WQiYAM"
STAMP = "2026-01-31T12:00:00.000+0000"

# One field of each kind, with the describe type and the Postgres type it belongs to.
FIELDS: tuple[tuple[Field, str, str], ...] = (
    (Field("Id", Kind.ID), "id", 'text COLLATE "C"'),
    (Field("IsDeleted", Kind.BOOLEAN), "boolean", "boolean"),
    (Field("SystemModstamp", Kind.DATETIME), "datetime", "timestamptz"),
    (Field("MasterRecordId", Kind.REFERENCE), "reference", 'text COLLATE "C"'),
    (Field("Title", Kind.TEXT), "string", "text"),
    (Field("Picks", Kind.MULTIPICKLIST), "multipicklist", "text[]"),
    (Field("Size", Kind.INTEGER), "int", "bigint"),
    (Field("Price", Kind.NUMBER), "currency", "numeric"),
    (Field("Birthdate", Kind.DATE), "date", "date"),
    (Field("SeenAt", Kind.DATETIME), "datetime", "timestamptz"),
    (Field("DoNotCall", Kind.BOOLEAN), "boolean", "boolean"),
    (Field("Email", Kind.TEXT, (Derived("email_normalized", normalise_email),)), "email", "text"),
)
CUSTOM = (
    *(("Note__c", "string"), ("Score__c", "double"), ("Tags__c", "multipicklist"), ("Vip__c", "boolean")),
    *(("Met__c", "datetime"), ("Due__c", "date"), ("Seats__c", "int"), ("Opens__c", "time")),
)
OWN = ("custom", "deleted_at", "deleted_reason")


def projection() -> Projection:
    sobject = SObject("Thing", "003", tuple(field for field, _, _ in FIELDS))
    org = [DescribedField(field.name, kind, custom=False) for field, kind, _ in FIELDS]
    return project(sobject, [*org, *(DescribedField(name, kind, custom=True) for name, kind in CUSTOM)])


THING = projection()
COLUMNS = (*THING.columns, *OWN)
# The same examples each time: a suite that fails by chance is no help to who changed something else.
REPEATABLE = settings(derandomize=True, deadline=None, database=None)
PROPERTY = settings(REPEATABLE, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_record(**values: Any) -> dict[str, Any]:
    """A record as the REST API delivers it: every selected field, null unless given."""
    empty: dict[str, Any] = {"attributes": {"type": "Thing"}} | dict.fromkeys(THING.names)
    return empty | {"Id": ID, "IsDeleted": False, "SystemModstamp": STAMP} | values


def as_texts(fitted: Projection, *records: Mapping[str, Any]) -> list[Record]:
    """Records as the REST API delivers them, as texts in the order of the selected fields."""
    return rest.to_texts([[record.get(name) for name in fitted.names] for record in records])


def page(*records: Mapping[str, Any]) -> Batch:
    """Records as the REST API delivers them, transformed."""
    return build(THING, as_texts(THING, *records), "US")


def read_back(line: bytes) -> list[str | None]:
    """The values of a line in COPY's text format with empty nulls, as its documentation says to read it."""
    letters = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    cells = line.decode().split("\t")
    return [re.sub(r"\\(.)", lambda found: letters[found[1]], cell) or None for cell in cells]


def built(**values: Any) -> dict[str, str | None]:
    """The one row of one record, by column."""
    batch = page(a_record(**values))
    assert batch.rejects == ()
    return dict(zip(COLUMNS, read_back(batch.lines[0]), strict=True))


def rejected(**values: Any) -> Reject:
    batch = page(a_record(**values))
    assert batch.lines == ()
    return batch.rejects[0]


# ── one column ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (Kind.TEXT, "plain", "plain"),
        (Kind.TEXT, "NA", "NA"),
        (Kind.TEXT, "01234", "01234"),
        (Kind.TEXT, "  spaces stay  ", "  spaces stay  "),
        (Kind.TEXT, "tab\tline\nreturn\rback\\slash", "tab\tline\nreturn\rback\\slash"),
        (Kind.TEXT, "Zoë 日本 🏳️‍🌈 \u202e", "Zoë 日本 🏳️‍🌈 \u202e"),
        (Kind.REFERENCE, ID, ID),
        (Kind.ID, ID, ID),
        (Kind.BOOLEAN, "true", "true"),
        (Kind.BOOLEAN, "false", "false"),
        (Kind.NUMBER, "0", "0"),
        (Kind.NUMBER, "400", "400"),
        (Kind.NUMBER, "300.0", "300.0"),
        (Kind.NUMBER, "4.0E8", "4.0E+8"),
        (Kind.NUMBER, "4.0e+8", "4.0E+8"),
        (Kind.NUMBER, "-0.10", "-0.10"),
        (Kind.NUMBER, ".5", "0.5"),
        (Kind.NUMBER, "+5.", "5"),
        (Kind.NUMBER, "007", "7"),
        (Kind.NUMBER, "999999999999999999", "999999999999999999"),
        (Kind.NUMBER, "123456789012345678.90", "123456789012345678.90"),
        (Kind.NUMBER, "0.000000000000000001", "1E-18"),
        (Kind.INTEGER, "42", "42"),
        (Kind.INTEGER, "-1", "-1"),
        (Kind.INTEGER, "400.0", "400"),
        (Kind.INTEGER, "4.0E8", "400000000"),
        (Kind.INTEGER, "-0.0", "0"),
        (Kind.INTEGER, "9223372036854775807", "9223372036854775807"),
        (Kind.INTEGER, "-9223372036854775808", "-9223372036854775808"),
        (Kind.DATE, "1700-01-01", "1700-01-01"),
        (Kind.DATE, "4000-12-31", "4000-12-31"),
        (Kind.DATE, "2024-02-29", "2024-02-29"),
        (Kind.DATETIME, "2011-07-07T00:37:00.000+0000", "2011-07-07T00:37:00.000+0000"),
        (Kind.DATETIME, "2011-07-07T00:37:00.000Z", "2011-07-07T00:37:00.000Z"),
        (Kind.DATETIME, "2011-07-07T00:37:00Z", "2011-07-07T00:37:00+00:00"),
        (Kind.DATETIME, "2011-07-07T06:07:00.000+05:30", "2011-07-07T00:37:00+00:00"),
        (Kind.DATETIME, "2011-07-07T00:37:00.123456Z", "2011-07-07T00:37:00.123456+00:00"),
        (Kind.DATETIME, "1700-01-01T00:00:00.000+0000", "1700-01-01T00:00:00.000+0000"),
        (Kind.DATETIME, "4000-12-31T23:59:59.000Z", "4000-12-31T23:59:59.000Z"),
        (Kind.MULTIPICKLIST, "one", '{"one"}'),
        (Kind.MULTIPICKLIST, "one;two", '{"one","two"}'),
        (Kind.MULTIPICKLIST, "a,b;c", '{"a,b","c"}'),
        (Kind.MULTIPICKLIST, 'say "hi";back\\slash', '{"say \\"hi\\"","back\\\\slash"}'),
        (Kind.MULTIPICKLIST, "NULL;{x}; y ", '{"NULL","{x}"," y "}'),
        (Kind.MULTIPICKLIST, ";a;;b;", '{"a","b"}'),
    ],
)
def test_values_are_kept(kind: Kind, value: str, kept: str) -> None:
    """A value that fits is kept as it is, in a form that Postgres reads, wherever in its column it stands."""
    assert list(values.CONVERT[kind]([value])) == [kept]
    null = [] if kind is Kind.ID else [""]
    assert list(values.CONVERT[kind]([*null, value, *null, value])) == [*null, kept, *null, kept]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.ID])
def test_nulls_are_kept(kind: Kind) -> None:
    """A null stays null in a column of any kind."""
    assert list(values.CONVERT[kind](["", "", ""])) == ["", "", ""]
    assert list(values.CONVERT[kind]([])) == []


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (Kind.ID, "003RO0000035WQg", "an Id has 18 characters"),
        (Kind.ID, "", "an Id has 18 characters"),
        (Kind.BOOLEAN, "yes", "not true or false"),
        (Kind.BOOLEAN, "TRUE", "not true or false"),
        (Kind.BOOLEAN, "1", "not true or false"),
        (Kind.NUMBER, "one", "not a number"),
        (Kind.NUMBER, "true", "not a number"),
        (Kind.NUMBER, "1,5", "not a number"),
        (Kind.NUMBER, "x" * 500, "not a number"),
        (Kind.NUMBER, "1_000", "not a number"),
        (Kind.NUMBER, " 7", "not a number"),
        (Kind.NUMBER, "7\n", "not a number"),
        (Kind.NUMBER, "١٢", "not a number"),
        (Kind.NUMBER, "NaN", "not a number"),
        (Kind.NUMBER, "-Infinity", "not a number"),
        (Kind.NUMBER, ".", "not a number"),
        (Kind.NUMBER, "1E", "not a number"),
        (Kind.NUMBER, "0x10", "not a number"),
        (Kind.NUMBER, "1E+99999999999999999999", "number out of range"),
        (Kind.NUMBER, "1E+131072", "number out of range"),
        (Kind.NUMBER, "1E-16384", "number out of range"),
        (Kind.INTEGER, "4.5", "not a whole number"),
        (Kind.INTEGER, "1E-5", "not a whole number"),
        (Kind.INTEGER, "9223372036854775808", "number out of range"),
        (Kind.INTEGER, "-9223372036854775809", "number out of range"),
        (Kind.INTEGER, "1E+131071", "number out of range"),
        (Kind.INTEGER, "four", "not a number"),
        (Kind.INTEGER, "1_0", "not a number"),
        (Kind.DATE, "2023-02-29", "not a date"),
        (Kind.DATE, "31.01.2026", "not a date"),
        (Kind.DATE, "2026-01-31T00:00:00Z", "not a date"),
        (Kind.DATETIME, "2011-07-07T00:37:00", "a date and time without its zone"),
        (
            Kind.DATETIME,
            "2011-07-07T00:37:00.000   ",
            "not a date and time",
        ),
        (
            Kind.DATETIME,
            "2011-07-07T00:37:00.1234",
            "a date and time without its zone",
        ),
        (Kind.DATETIME, "2011-07-07", "a date and time without its zone"),
        (Kind.DATETIME, "2011-13-07T00:37:00Z", "not a date and time"),
        (
            Kind.DATETIME,
            "2011-02-29T00:37:00.000+0000",
            "not a date and time",
        ),
        (Kind.DATETIME, "2011-07-07T24:37:00.000Z", "not a date and time"),
        (Kind.DATETIME, "x" * 500, "not a date and time"),
    ],
)
def test_values_that_do_not_fit_are_refused(kind: Kind, value: str, reason: str) -> None:
    """A value that Postgres could not keep exactly is refused with the reason, never bent."""
    with pytest.raises(UnrepresentableValueError, match=f"^{re.escape(reason)}$"):
        values.CONVERT[kind]([value])
    with pytest.raises(UnrepresentableValueError, match=f"^{re.escape(reason)}$"):
        values.CONVERT[kind]([ID, value] if kind is Kind.ID else ["", value, ""])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"city": "Ulm"}, "expected text, got an object"),
        (["a"], "expected text, got a list"),
        (7, "expected text, got a number"),
        (Decimal("7.5"), "expected text, got a number"),
        (True, "expected text, got true/false"),
        ("half \ud83d", "half of a surrogate pair, or bytes that are no UTF-8"),
        (b"caf\xe9".decode(errors="surrogateescape"), "half of a surrogate pair, or bytes that are no UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(value: Any, reason: str) -> None:
    """A column is made of texts that UTF-8 can hold; anything else is refused, wherever it stands."""
    for column in ([value], ["a", value, "é"]):
        with pytest.raises(UnrepresentableValueError, match=f"^{reason}$"):
            values.texts(column)


def test_halves_of_two_records_are_no_pair() -> None:
    """Half a surrogate at the end of one record and half at the beginning of the next make no character."""
    first, second = a_record(Title="half \ud83d"), a_record(Id=OTHER_ID, Title="\ude42 half")

    assert [one.id for one in page(first, second).rejects] == [ID, OTHER_ID]


# ── derived columns ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "email"),
    [
        ("ann@example.com", "ann@example.com"),
        ("  Ann.Smith@Example.COM\t", "ann.smith@example.com"),
        ("O'Brien+tag@sub.example.co.uk", "o'brien+tag@sub.example.co.uk"),
        ("ÄNN@BÜRO.DE", "änn@büro.de"),
        ("", None),
        ("n/a", None),
        ("ann@example", None),
        ("ann@", None),
        ("@example.com", None),
        ("ann@example.", None),
        ("ann@@example.com", None),
        ("a@example.com b@example.com", None),
        ("a@example.com;b@example.com", None),
        ("Ann <ann@example.com>", None),
    ],
)
def test_email(raw: str, email: str | None) -> None:
    """An e-mail address is trimmed and lower-cased; what is not one address gives null."""
    assert normalise_email(raw, "US") == email


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        ("example.com", "example.com"),
        ("HTTPS://Www.Example.com:8443/shop?x=1#top", "www.example.com"),
        ("http://example.com", "example.com"),
        ("//example.com/path", "example.com"),
        ("www.example.com/a/b", "www.example.com"),
        ("  example.com  ", "example.com"),
        ("example.com.", "example.com"),
        ("https://user:secret@shop.example.com/", "shop.example.com"),
        ("müller.de", "müller.de"),
        ("example.com/login?next=https://other.example/", "example.com"),
        ("example.com/a//b", "example.com"),
        ("", None),
        ("n/a", None),
        ("none", None),
        ("http://", None),
        ("http://localhost:3000", None),
        ("http://[::1]/", None),
        ("http://[broken", None),
        ("not a website.", None),
        ("see example.com, or call", None),
        ("..", None),
        ("http://.com", None),
        ("a..b", None),
        ("http://example.com\\path", None),
        ("<b>bold.example</b>", None),
    ],
)
def test_website(raw: str, host: str | None) -> None:
    """A website's host name is found whatever surrounds it; what is no host name gives null."""
    assert website_host(raw, "US") == host


FREE_TEXT = st.text() | st.text(alphabet="abc.@/:;+-() 0123456789#?\\<>\"'[]%")
PIECES = (
    "http://",
    "//",
    "www",
    ".",
    "a.de",
    "é",
    "_",
    "-",
    ":80",
    "@",
    "/",
    "?x=",
    "\\",
    "<",
    " ",
    "415",
    "+1",
)
LINES = st.emails() | st.from_regex(r"(https?://)?[a-z]{1,5}\.[a-z]{2,3}(/\S*)?", fullmatch=True)


@settings(REPEATABLE, max_examples=some_of(400))
@given(FREE_TEXT | LINES | st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_derived_columns_of_any_text(raw: str) -> None:
    """Whatever the text, a derived value is null or well-formed, and deriving it again changes nothing."""
    for normalise, form in (
        (normalise_email, r"[^@\s]+@[^@\s]+\.[^@\s]+"),
        (website_host, r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)+"),
    ):
        value = normalise(raw, "US")
        if value is not None:
            assert re.fullmatch(form, value), f"{normalise}: {value!r}"
            assert normalise(value, "US") == value


# ── one record ────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_has_every_column_in_order() -> None:
    """A record becomes one line: a text per column, in their order, then `custom` and the tombstone."""
    batch = page(
        a_record(
            Title="Director",
            Picks="a;b",
            Size=7,
            Price=Decimal("12.50"),
            Birthdate="1990-05-01",
            SeenAt="2024-09-24T03:26:07.000+0000",
            DoNotCall=True,
            Email=" Ann@Example.com",
            Note__c="hello",
            Score__c=Decimal("1.10"),
            Tags__c="x;y",
            Vip__c=True,
            Met__c="2024-09-24T03:26:07.000+0000",
            Due__c="2024-09-24",
            Seats__c=4,
            Opens__c="09:30:00.000Z",
        )
    )

    assert THING.columns == (
        *("id", "is_deleted", "system_modstamp", "master_record_id", "title", "picks", "size", "price"),
        *("birthdate", "seen_at", "do_not_call", "email", "email_normalized"),
    )
    assert (batch.rejects, batch.nuls, batch.deleted, len(batch.records)) == ((), 0, 0, 1)
    assert [read_back(line) for line in batch.lines] == [
        [
            ID,
            "false",
            STAMP,
            None,
            "Director",
            '{"a","b"}',
            "7",
            "12.50",
            "1990-05-01",
            "2024-09-24T03:26:07.000+0000",
            "true",
            " Ann@Example.com",
            "ann@example.com",
            '{"Note__c":"hello","Score__c":1.10,"Tags__c":["x","y"],"Vip__c":true,'
            '"Met__c":"2024-09-24T03:26:07.000+0000","Due__c":"2024-09-24","Seats__c":4,"Opens__c":"09:30:00.000Z"}',
            None,
            None,
        ]
    ]


def test_null_stays_null() -> None:
    """A null is a null in every column, and in `custom` it is kept as one."""
    row = built()

    assert {column for column, value in row.items() if value is None} == {
        *("master_record_id", "title", "picks", "size", "price", "birthdate", "seen_at", "do_not_call"),
        *("email", "email_normalized", "deleted_at", "deleted_reason"),
    }
    assert json.loads(row["custom"] or "") == dict.fromkeys(dict(CUSTOM))


def test_empty_text_is_null() -> None:
    """Salesforce keeps no empty texts, and a CSV cell could not tell one from a null: both are null."""
    row = built(Title="", Email="", Picks="", Note__c="", Tags__c="")

    assert row == built()


def test_missing_field_is_null() -> None:
    """A field that an answer leaves out is a null."""
    short = {name: a_record()[name] for name in ("Id", "IsDeleted", "SystemModstamp")}

    assert page(short).lines == page(a_record()).lines


@pytest.mark.parametrize(
    ("value", "kept"),
    [(7, "7"), (Decimal("7.50"), "7.50"), (10**30, str(10**30)), (True, "true"), (False, "false")],
)
def test_scalars_in_text_fields_are_kept_as_text(value: Any, kept: str) -> None:
    """A number or a boolean where a text is expected is kept as its text: a CSV cell has no types."""
    row = built(Title=value, Note__c=value)

    assert row["title"] == kept
    assert json.loads(row["custom"] or "")["Note__c"] == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Size", "7"),
        ("Size", "7.0"),
        ("Price", "7"),
        ("DoNotCall", "true"),
        ("Birthdate", "2026-01-31"),
    ],
)
def test_scalars_are_judged_by_their_text(field: str, value: str) -> None:
    """A text that reads like the number or the boolean that is expected is taken for one."""
    plain = {"7": 7, "7.0": Decimal("7.0"), "true": True}

    assert built(**{field: value}) == built(**{field: plain.get(value, value)})


def test_nul_is_removed_and_counted() -> None:
    """Postgres keeps no NUL: it is removed, wherever it is, and counted."""
    values = {"Title": "a\0b\0", "Picks": "x\0;y", "Email": "\0ann@example.com", "Note__c": "n\0"}
    batch = page(a_record(**values, Tags__c="t\0;u"), a_record(Id=OTHER_ID, Title="\0\0"))
    first, second = (dict(zip(COLUMNS, read_back(line), strict=True)) for line in batch.lines)

    assert batch.nuls == 8
    assert (first["title"], first["picks"], first["email_normalized"]) == (
        "ab",
        '{"x","y"}',
        "ann@example.com",
    )
    assert json.loads(first["custom"] or "")["Note__c"] == "n"
    assert json.loads(first["custom"] or "")["Tags__c"] == ["t", "u"]
    assert second["title"] is None


def test_nuls_of_rejects_are_not_counted() -> None:
    """The count is of what was removed on the way into the tables; a reject keeps its NULs."""
    batch = page(a_record(Title="a\0"), a_record(Id=OTHER_ID, Title="b\0\0", Size="x"))

    assert batch.nuls == 1
    assert json.loads(batch.rejects[0].record)["Title"] == "b\0\0"


@pytest.mark.parametrize(
    ("text", "decimal"),
    [("1.10", "1.10"), ("123456789012345678.123456789", "123456789012345678.123456789"), ("4.0E8", "4.0E+8")],
)
def test_custom_numbers_keep_every_digit(text: str, decimal: str) -> None:
    """Custom numbers are numbers in JSON, with the digits that Salesforce sent."""
    custom = built(Score__c=Decimal(text))["custom"] or ""

    assert json.loads(custom, parse_float=Decimal)["Score__c"] == Decimal(decimal)
    assert f'"Score__c":{decimal}' in custom


@pytest.mark.parametrize("stamp", ["2024-09-24T03:26:07.000+0000", "2024-09-24T03:26:07.000Z"])
def test_custom_moments_have_one_form(stamp: str) -> None:
    """A custom date and time is written as the REST API writes it, whichever way it came: readers compare."""
    custom = json.loads(built(Met__c=stamp)["custom"] or "")

    assert custom["Met__c"] == "2024-09-24T03:26:07.000+0000"


def test_custom_names_are_quoted() -> None:
    """Whatever a custom field is called, `custom` is JSON with its value under its name."""
    strange = ('say "hi"__c', "50%__c", "%s__c", "back\\slash__c", "Zoë__c")
    sobject = SObject("Thing", "003", tuple(field for field, _, _ in FIELDS[:4]))
    org = [DescribedField(field.name, kind, custom=False) for field, kind, _ in FIELDS[:4]]
    fitted = project(sobject, [*org, *(DescribedField(name, "string", custom=True) for name in strange)])
    record = {"Id": ID, "IsDeleted": False, "SystemModstamp": STAMP, **dict.fromkeys(strange, "x%d")}

    [line] = build(fitted, as_texts(fitted, record), "US").lines

    assert json.loads(read_back(line)[4] or "") == dict.fromkeys(strange, "x%d")


def contact_with(**values: Any) -> tuple[Projection, list[Record]]:
    sobject = CATALOGUE["Contact"]
    org = [DescribedField(field.name, field.kind.value[0], custom=False) for field in sobject.fields]
    contact = project(sobject, org)
    return contact, as_texts(contact, {"Id": ID, "IsDeleted": False, "SystemModstamp": STAMP} | values)


def test_region_decides_about_national_numbers() -> None:
    """The default region is a setting, handed through to the phone columns."""
    contact, records = contact_with(Phone="(030) 901820")
    place = contact.columns.index("phone_e164")

    assert read_back(build(contact, records, "DE").lines[0])[place] == "+4930901820"
    assert read_back(build(contact, records, "US").lines[0])[place] is None


def test_without_custom_fields_custom_is_empty() -> None:
    """An object without selected custom fields has an empty object in `custom`, not a null."""
    contact, records = contact_with()

    assert read_back(build(contact, records, "US").lines[0])[-3:] == ["{}", None, None]


# ── tombstones ────────────────────────────────────────────────────────────────────────────────────────


def test_live_records_have_no_tombstone() -> None:
    """A live record has neither `deleted_at` nor a reason, whatever its other values."""
    row = built(MasterRecordId=MASTER)

    assert (row["is_deleted"], row["deleted_at"], row["deleted_reason"]) == ("false", None, None)


def test_deleted_and_merged_records_have_one() -> None:
    """A record in the bin is a tombstone as of its stamp, and tells whether it was deleted or merged."""
    batch = page(
        a_record(),
        a_record(Id=OTHER_ID, IsDeleted=True),
        a_record(Id=MASTER, IsDeleted=True, MasterRecordId=ID, SystemModstamp="2026-02-01T00:00:00.000Z"),
    )
    rows = [read_back(line) for line in batch.lines]

    assert batch.deleted == 2
    assert [(row[0], row[1], *row[-2:]) for row in rows] == [
        (ID, "false", None, None),
        (OTHER_ID, "true", "2026-01-31T12:00:00+00:00", "deleted"),
        (MASTER, "true", "2026-02-01T00:00:00+00:00", "merged"),
    ]


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.000Z",
        "2026-01-31T17:30:00.000+05:30",
        "2026-01-31T12:00:00.000000+00:00",
        "2026-01-31 12:00:00+0000",
    ],
)
def test_tombstone_of_an_unusual_stamp(stamp: str) -> None:
    """The moment of a tombstone is its stamp's, in whatever form it came."""
    row = built(IsDeleted=True, SystemModstamp=stamp)

    for column in ("system_modstamp", "deleted_at"):
        assert datetime.fromisoformat(row[column] or "") == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_deleted_record_with_an_unreadable_stamp_is_rejected() -> None:
    """A tombstone needs its moment: a deleted record without one is a reject, not a live row."""
    assert rejected(IsDeleted=True, SystemModstamp="soon").reason == ("SystemModstamp: not a date and time")


def test_tombstone_without_a_visible_master() -> None:
    """Where MasterRecordId is hidden a merge looks like a delete, and is still a tombstone."""
    sobject = SObject("Thing", "003", tuple(field for field, _, _ in FIELDS[:4]))
    org = [DescribedField(field.name, kind, custom=False) for field, kind, _ in FIELDS[:3]]
    fitted = project(sobject, org)
    gone = {"Id": ID, "IsDeleted": True, "SystemModstamp": STAMP}

    [line] = build(fitted, as_texts(fitted, gone), "US").lines

    assert fitted.hidden == ("MasterRecordId",)
    assert read_back(line)[-2:] == ["2026-01-31T12:00:00+00:00", "deleted"]


# ── rejects ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("Title", {"a": 1}, "Title: expected text, got an object"),
        ("Title", ["a"], "Title: expected text, got a list"),
        ("Size", "seven", "Size: not a number"),
        ("Size", True, "Size: not a number"),
        ("Price", "1,50", "Price: not a number"),
        ("DoNotCall", 1, "DoNotCall: not true or false"),
        ("Birthdate", "soon", "Birthdate: not a date"),
        ("SystemModstamp", "2026-01-31T12:00:00", "SystemModstamp: a date and time without its zone"),
        ("SystemModstamp", None, "SystemModstamp: missing"),
        ("SystemModstamp", "\0", "SystemModstamp: missing"),
        ("IsDeleted", None, "IsDeleted: missing"),
        ("Id", None, "Id: missing"),
        ("Id", "", "Id: missing"),
        ("Id", "003", "Id: an Id has 18 characters"),
        ("Note__c", "half \ud83d", "Note__c: half of a surrogate pair, or bytes that are no UTF-8"),
        ("Note__c", ["a"], "Note__c: expected text, got a list"),
        ("Score__c", "much", "Score__c: not a number"),
        ("Vip__c", "yes", "Vip__c: not true or false"),
    ],
)
def test_reject_names_field_and_reason(field: str, value: Any, reason: str) -> None:
    """A record that does not fit is rejected with the field's name and the reason."""
    assert rejected(**{field: value}).reason.startswith(reason)


def test_reject_of_an_id_that_is_none() -> None:
    """Whatever stands in the Id's place, as much of it names the reject as an Id has."""
    assert rejected(Id="x" * 500).id == "x" * 18
    assert rejected(Id="\x00003").id == "003"
    assert rejected(Id=None).id == ""
    assert rejected(Id="\ud83d" * 18).id == "\\ud83d" * 3
    assert rejected(Id={"a": 1}).id == "{'a': 1}"


def test_reject_holds_the_whole_record() -> None:
    """A reject keeps every value of the record, typed as the API types it, and drops only `attributes`."""
    values = {
        "Size": "seven",
        "Price": Decimal("123456789012345678.90"),
        "DoNotCall": False,
        "Picks": "a;b",
        "SeenAt": "2024-09-24T03:26:07.000+0000",
        "Note__c": "note",
        "Score__c": Decimal("1.10"),
        "Vip__c": True,
        "Seats__c": 4,
    }
    one = rejected(**values)
    kept = json.loads(one.record, parse_float=Decimal)

    assert (one.id, one.stamp) == (ID, "2026-01-31T12:00:00+00:00")
    assert kept == {name: value for name, value in a_record(**values).items() if name != "attributes"}
    assert '"Price":123456789012345678.90' in one.record.replace(": ", ":")


def test_reject_types_by_describe() -> None:
    """What a value is in a reject's JSON is decided by its field's type; what does not fit that stays text."""
    one = rejected(Title=7, Size="x", Price="7", DoNotCall="true", Score__c="y", Seats__c="4", Vip__c="maybe")
    kept = json.loads(one.record)

    assert {name: kept[name] for name in ("Title", "Size", "Price", "DoNotCall")} == {
        "Title": "7",
        "Size": "x",
        "Price": 7,
        "DoNotCall": True,
    }
    assert (kept["Score__c"], kept["Seats__c"], kept["Vip__c"]) == ("y", 4, "maybe")


def test_reject_keeps_what_is_no_text() -> None:
    """An object where a text should be is in the reject as it came."""
    address = {"city": "Ulm", "lat": Decimal("48.40"), "zip": ["89073", None, True, 10**30]}
    kept = json.loads(rejected(Title=address).record, parse_float=Decimal)

    assert kept["Title"] == address


def test_reject_with_half_a_surrogate_is_ascii() -> None:
    """A lone surrogate cannot be stored, yet the reject's JSON is valid ASCII and shows where it was."""
    one = rejected(Title="half \ud83d pair", Note__c="Zoë \U0001f642")

    assert one.reason.startswith("Title: half of a surrogate pair")
    assert one.record.isascii()
    kept = json.loads(one.record)
    assert kept["Note__c"] == "Zoë \U0001f642"
    assert "d83d" in one.record.lower()


def test_reject_with_nul_is_valid_json() -> None:
    """A NUL in a rejected record survives as an escape."""
    one = rejected(Size="x", Note__c="a\0b")

    assert "\0" not in one.record
    assert json.loads(one.record)["Note__c"] == "a\0b"


def test_reject_without_a_usable_stamp() -> None:
    """A record without a readable stamp is rejected without one, rather than with a wrong one."""
    for stamp in ("yesterday", 7, None, ["2026"], {"a": "b"}):
        assert rejected(SystemModstamp=stamp).stamp is None


def test_one_bad_record_leaves_the_others_alone() -> None:
    """A page with one bad record is stored without it, in its order."""
    third = ID[:-3] + "AAA"
    batch = page(a_record(), a_record(Id=OTHER_ID, Size="x"), a_record(Id=third, Title="third"))

    assert [read_back(line)[0] for line in batch.lines] == [ID, third]
    assert [record[0] for record in batch.records] == [ID, third]
    assert list(batch.ids) == [ID, OTHER_ID, third]
    assert [(one.id, one.reason) for one in batch.rejects] == [(OTHER_ID, "Size: not a number")]


BAD: tuple[tuple[str, Any], ...] = (
    *(("Size", "x"), ("Title", "\ud83d"), ("Birthdate", "soon"), ("SystemModstamp", None), ("Vip__c", "?")),
    *(("Title", {}), ("Score__c", "y"), ("Price", "1E+999999"), ("SeenAt", "now"), ("IsDeleted", "")),
)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 2000])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.02, 0.5, 1.0])
def test_halving_finds_exactly_the_bad_records(size: int, share: float) -> None:
    """However many records of a page are bad, and wherever they stand, just they are rejected, in order."""
    chance = random.Random(size)
    records, bad = [], []
    for number in range(size):
        record = a_record(Id=f"003{number:012d}AAA", Title=f"t{number}")
        if chance.random() < share:
            field, value = chance.choice(BAD)
            record[field] = value
            bad.append((record["Id"], field))
        records.append(record)

    batch = page(*records)

    assert [(one.id, one.reason.split(":")[0]) for one in batch.rejects] == bad
    assert list(batch.ids) == [record["Id"] for record in records]
    expected = [record["Id"] for record in records if record["Id"] not in dict(bad)]
    assert [read_back(line)[0] for line in batch.lines] == expected
    assert [record[0] for record in batch.records] == expected
    assert [read_back(line)[4] for line in batch.lines] == [f"t{int(id_[3:15])}" for id_ in expected]


def test_halves_add_up() -> None:
    """What is counted over a page is counted the same when it had to be halved."""
    gone = [a_record(Id=f"003{n:012d}AAA", IsDeleted=n % 3 == 0, Title="a\0" * (n % 4)) for n in range(50)]
    whole = page(*gone)
    halved = page(*gone[:20], a_record(Id=OTHER_ID, Size="x"), *gone[20:])

    assert (halved.deleted, halved.nuls) == (whole.deleted, whole.nuls) == (17, 73)
    assert list(halved.lines) == list(whole.lines)
    assert len(halved.rejects) == 1


def test_an_empty_page_is_an_empty_batch() -> None:
    """A page may be empty: nothing comes of it."""
    assert page() == Batch()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20)  # surrogates and NUL included
    | st.sampled_from([ID, STAMP, "2026-01-31", "a;b", "\0", "\ud83d", "x" * 18])
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(THING.names, JSON_VALUES)).map(
    lambda values: {"attributes": {"type": "Thing"}} | values
)
MOSTLY_GOOD = RECORDS.map(lambda values: a_record() | values)


@settings(REPEATABLE, max_examples=some_of(300))
@given(st.lists(RECORDS | MOSTLY_GOOD, max_size=4))
@example([a_record(Id="\0")])
@example([a_record(Id="\ud83d" * 18)])
@example([a_record(Note__c=["\ud83d"])])
@example([a_record(Note__c={"\ud83d": "\0"})])
@example([a_record(Title=[10**40, "\ud83d"])])
def test_every_record_is_a_row_or_a_reject(records: list[dict[str, Any]]) -> None:
    """Whatever Salesforce sends, each record becomes a row or a reject; none is dropped, nothing crashes."""
    batch = page(*records)

    assert len(batch.lines) + len(batch.rejects) == len(records)
    assert len(batch.records) == len(batch.lines)
    assert len(batch.ids) == len(records)
    for line in batch.lines:
        assert b"\0" not in line
        assert b"\n" not in line
        assert len(read_back(line)) == len(COLUMNS)
    for one in batch.rejects:
        json.loads(one.record)
        assert "\0" not in one.id + one.reason + one.record
        (one.id + one.reason + one.record).encode()


# ── into Postgres and back ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def postgres(server: str) -> Iterator[Connection]:
    """A real Postgres, with a temporary table of one column per kind."""
    types = [kind for field, _, kind in FIELDS for _ in (field, *field.derived)]
    types += ["jsonb", "timestamptz", "text"]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(COLUMNS, types, strict=True))
    engine = create_engine(
        server, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"client_encoding": "utf8"}
    )
    with engine.connect() as connection:
        connection.execute(text("SET timezone = 'UTC'"))
        connection.execute(
            text(f"CREATE TEMPORARY TABLE kept (place int GENERATED ALWAYS AS IDENTITY, {columns})")
        )
        connection.execute(text(MOMENT))
        yield connection


# What Postgres reads from a text, or null.
MOMENT = """
CREATE FUNCTION pg_temp.moment(value text) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN CAST(value AS timestamptz);
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END $$
"""


def stored(postgres: Connection, batch: Batch, *columns: str) -> list[tuple[Any, ...]]:
    """The columns (all, unless named) of a batch's rows after a COPY."""
    postgres.execute(text("TRUNCATE kept"))
    merge.copy_lines(postgres, f"COPY kept ({', '.join(COLUMNS)}) FROM STDIN (NULL '')", batch.lines)
    wanted = ", ".join(columns or COLUMNS)
    return [tuple(row) for row in postgres.execute(text(f"SELECT {wanted} FROM kept ORDER BY place"))]


def test_every_kind_through_postgres(postgres: Connection) -> None:
    """Every kind of value comes back from Postgres as the value that Salesforce sent."""
    record = a_record(
        IsDeleted=True,
        MasterRecordId=MASTER,
        Title='tab\t line\n return\r back\\slash \\N \\. "quoted" Zoë 🙂',
        Picks='a,b;say "hi";back\\slash;NULL;{x}',
        Size=-(2**63),
        Price=Decimal("-123456789012345678.90"),
        Birthdate="1700-01-01",
        SeenAt="2024-09-24T03:26:07.000Z",
        DoNotCall=True,
        Email="Ann@Example.com",
        Note__c="\u2028 \x1f \\u0000 '",
        Score__c=Decimal("0.10"),
        Tags__c="b;a",
        Vip__c=False,
    )
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert stored(postgres, page(record)) == [
        (
            ID,
            True,
            noon,
            MASTER,
            record["Title"],
            ["a,b", 'say "hi"', "back\\slash", "NULL", "{x}"],
            -(2**63),
            Decimal("-123456789012345678.90"),
            date(1700, 1, 1),
            datetime(2024, 9, 24, 3, 26, 7, tzinfo=UTC),
            True,
            "Ann@Example.com",
            "ann@example.com",
            {"Note__c": record["Note__c"], "Score__c": 0.1, "Tags__c": ["b", "a"], "Vip__c": False}
            | dict.fromkeys(("Met__c", "Due__c", "Seats__c", "Opens__c")),
            noon,
            "merged",
        )
    ]


@pytest.mark.parametrize("raw", ["a\\b@example.com", "a\\n@example.com", "\\.@example.com"])
def test_derived_values_through_postgres(postgres: Connection, raw: str) -> None:
    """What is derived from a value is stored as it was derived, backslashes included."""
    assert stored(postgres, page(a_record(Email=raw)), "email", "email_normalized") == [(raw, raw)]


def test_empty_choices_are_none(postgres: Connection) -> None:
    """Between two separators there is no choice, neither in a column nor in `custom`."""
    found = stored(postgres, page(a_record(Picks=";a;;b", Tags__c="c;;d;")), "picks", "custom -> 'Tags__c'")

    assert found == [(["a", "b"], ["c", "d"])]


def test_nulls_through_postgres(postgres: Connection) -> None:
    """Nulls of every kind come back as nulls."""
    [row] = stored(postgres, page(a_record()))

    assert row[3:] == (*[None] * 10, dict.fromkeys(dict(CUSTOM)), None, None)


def test_stored_digits_are_the_sent_digits(postgres: Connection) -> None:
    """Not only the value: 300.0 stays 300.0, and 4.0E8 is 400000000."""
    sent = ("300.0", "1.10", "4.0E8", "123456789012345678.90", "1E-18")
    batch = page(*(a_record(Price=Decimal(number), Score__c=Decimal(number)) for number in sent))

    for found in ("price::text", "custom ->> 'Score__c'"):
        assert [row[0] for row in stored(postgres, batch, found)] == [
            *("300.0", "1.10", "400000000", "123456789012345678.90", "0.000000000000000001")
        ]


@PROPERTY
@given(texts=st.lists(st.text() | st.text(alphabet="\\\t\n\r\0N.;\"'{},x"), min_size=1, max_size=20))
@example(texts=["\\.", "\\N", "NULL", "\\", "\\\\", "\t", "\n", "\r\n", "\0", ""])
def test_any_text_survives_copy(postgres: Connection, texts: list[str]) -> None:
    """Any text, stored with COPY, is read back as it was; only NUL is gone, and nothing at all is null."""
    batch = page(*(a_record(Title=each, Note__c=each) for each in texts))
    kept = [each.replace("\0", "") or None for each in texts]

    assert stored(postgres, batch, "title", "custom ->> 'Note__c'") == [(each, each) for each in kept]
    assert batch.nuls == 2 * sum(each.count("\0") for each in texts)


@PROPERTY
@given(
    numbers=st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40)
        | st.integers(-(10**40), 10**40)
        | st.decimals(places=18, min_value=-(10**18), max_value=10**18),
        min_size=1,
        max_size=20,
    )
)
def test_any_number_survives_copy(postgres: Connection, numbers: list[Decimal | int]) -> None:
    """Any number that Salesforce can hold comes back equal, to the last digit."""
    batch = page(*(a_record(Price=number, Score__c=number) for number in numbers))

    assert stored(postgres, batch, "price", "(custom -> 'Score__c')::numeric") == [(n, n) for n in numbers]


MOMENTS = st.datetimes(
    datetime(1700, 1, 2),  # noqa: DTZ001 — the strategy takes its bounds without a zone
    datetime(4000, 12, 30),  # noqa: DTZ001 — naive on purpose
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)


@PROPERTY
@given(moments=st.lists(MOMENTS, min_size=1, max_size=20))
def test_any_moment_survives_copy(postgres: Connection, moments: list[datetime]) -> None:
    """Any moment, whatever its offset, comes back as the same moment, and any date as the same date."""
    batch = page(*(a_record(SystemModstamp=m.isoformat(), Birthdate=m.date().isoformat()) for m in moments))

    assert stored(postgres, batch, "system_modstamp", "birthdate") == [(m, m.date()) for m in moments]


@PROPERTY
@given(moments=st.lists(MOMENTS, min_size=1, max_size=20))
def test_salesforces_forms_of_a_moment(postgres: Connection, moments: list[datetime]) -> None:
    """The forms that Salesforce writes, by REST and by Bulk API, are the same moment, to the millisecond."""
    exact = [m.astimezone(UTC).replace(microsecond=m.microsecond // 1000 * 1000) for m in moments]
    written = [f"{m:%Y-%m-%dT%H:%M:%S}.{m.microsecond // 1000:03d}" for m in exact]
    batch = page(*(a_record(SystemModstamp=f"{each}+0000", SeenAt=f"{each}Z") for each in written))

    assert stored(postgres, batch, "system_modstamp", "seen_at") == [(m, m) for m in exact]


DATES = ("2026-01-31", "20260131", "2026-W05-6", "0999-12-31", "9999-12-30")
TIMES = ("12:00:00", "12:00", "120000", "1200", "12", "23:59:59")
FRACTIONS = ("", ".5", ",5", ".000", ",123", ".123456", ".1234567", ".12345678")
ZONES = ("Z", "+0000", "+000030", "+00:00", "-0800", "+05:30", "+05", "+05:30:15", "-23:59", " Z", "")


@pytest.mark.parametrize("separator", "T t_/")
def test_strange_forms_of_a_moment_are_not_bent(postgres: Connection, separator: str) -> None:
    """A form that Salesforce never sent so far is a reject, or the very moment that it says."""
    forms = [
        f"{day}{separator}{time}{fraction}{zone}"
        for day in DATES
        for time in TIMES
        for fraction in FRACTIONS
        for zone in ZONES
    ]
    # Alone, and among others of its length: what is usual is decided for a whole column.
    pages = [[form] for form in forms]
    pages += [[form for form in forms if len(form) == length] for length in {*map(len, forms)}]
    asked, given = [], []
    for column in pages:
        batch = page(*(a_record(Id=f"003{n:012d}AAA", SeenAt=form) for n, form in enumerate(column)))
        asked += [record[THING.names.index("SeenAt")] for record in batch.records]
        given += [read_back(line)[COLUMNS.index("seen_at")] for line in batch.lines]
    read = postgres.execute(
        text(
            "SELECT pg_temp.moment(v) FROM unnest(:given) WITH ORDINALITY AS each (v, place) ORDER BY place"
        ),
        {"given": given},
    ).scalars()

    assert 0 < len(asked) < sum(map(len, pages))
    assert {
        form: (sent, found)
        for form, sent, found in zip(asked, given, read, strict=True)
        if found is not None and found != datetime.fromisoformat(form)
    } == {}


def test_one_odd_moment_leaves_its_column_alone(postgres: Connection) -> None:
    """A column in which forms are mixed keeps every moment of it."""
    forms = [
        *("2024-09-24T03:26:07.000+0000", "2024-09-24T03:26:07.000Z", "2024-09-24T05:26:07+02:00"),
        *("2024-09-24T03:26:07.5Z", "2024-09-24T03:26:07.000+0000", "2024-09-24 03:26:07Z"),
    ]
    found = stored(postgres, page(*(a_record(SeenAt=form) for form in [*forms, None])), "seen_at")

    assert [row[0] for row in found] == [*map(datetime.fromisoformat, forms), None]


CHOICE = st.text(st.characters(codec="utf-8", exclude_characters=";\0"), min_size=1, max_size=10)


@PROPERTY
@given(choices=st.lists(CHOICE, max_size=6))
def test_any_choices_survive_copy(postgres: Connection, choices: list[str]) -> None:
    """Any choices of a multipicklist come back as the same list, as a column and in `custom`."""
    joined = ";".join(choices)
    batch = page(a_record(Picks=joined, Tags__c=joined))

    assert stored(postgres, batch, "picks", "custom -> 'Tags__c'") == [(choices or None, choices or None)]


@PROPERTY
@given(value=st.text() | st.booleans() | st.integers(-(10**15), 10**15) | st.none())
def test_any_custom_value_survives_copy(postgres: Connection, value: Any) -> None:
    """Any value of a custom text field comes back from jsonb as its text; only NUL is gone."""
    [(custom,)] = stored(postgres, page(a_record(Note__c=value)), "custom")
    known = {None: None, True: "true", False: "false"}
    as_text = known[value] if value is None or isinstance(value, bool) else str(value).replace("\0", "")

    assert custom["Note__c"] == (as_text or None)


@PROPERTY
@given(record=MOSTLY_GOOD)
def test_any_reject_is_json_for_postgres(postgres: Connection, record: dict[str, Any]) -> None:
    """Whatever the record holds, Postgres takes its reject as json and gives it back parsed."""
    [values] = as_texts(THING, record)
    one = transform.reject(THING, values, "a reason")
    [(kept,)] = postgres.execute(text("SELECT CAST(:record AS json)"), {"record": one.record})

    assert set(kept) == set(THING.names)


def test_json_encoder_writes_numbers() -> None:
    """Decimals are JSON numbers: as strings, consumers would have to know which fields are numbers."""
    assert transform.plain_json({"a": Decimal("1.10"), "b": [Decimal("4.0E8")]}) == '{"a":1.10,"b":[4.0E+8]}'
    assert msgspec.json.decode(b'{"a":1.10}', type=dict[str, Decimal]) == {"a": Decimal("1.10")}


# ── whichever way it came ─────────────────────────────────────────────────────────────────────────────

NASTY_TEXTS = (
    *("plain", "NA", "null", "NULL", "\\N", "\\.", "\\", "a\\nb", "tab\there", "line\nbreak", "cr\rlf\r\n"),
    *('say "hi"', '"', '""', "a,b", ",", "'", "Zoë 日本 👩‍🚀", "\u2028", "\ufeffbom", " spaces ", "a\0b", ""),
    *("4.0E8", "true", "2024-01-01", "{}", "%s", "\x1f\x7f\x85"),
)
NASTY_NUMBERS = ("4.0E8", "1.0E7", "-0.0", "0", "0.0", "1.10", "-12.5", "123456789012345678.90", "1E-18", "")
# By kind of column: JSON values of the REST API, beside the cells in which the Bulk API writes them.
BOTH_WAYS: dict[str, tuple[tuple[Any, str], ...]] = {
    "text": tuple((value or None, value) for value in NASTY_TEXTS),
    "number": tuple((Decimal(value) if value else None, value) for value in NASTY_NUMBERS),
    "integer": ((7, "7"), (Decimal("400.0"), "400.0"), (Decimal("4.0E8"), "4.0E8"), (-1, "-1.0"), (None, "")),
    "boolean": ((True, "true"), (False, "false"), (None, "")),
    "date": (("2024-01-01", "2024-01-01"), ("1700-01-01", "1700-01-01"), (None, "")),
    "datetime": (
        ("2024-09-24T03:26:07.000+0000", "2024-09-24T03:26:07.000Z"),
        ("1700-01-01T00:00:00.123+0000", "1700-01-01T00:00:00.123Z"),
        (None, ""),
    ),
    "multipicklist": (
        ("a;b", "a;b"),
        ('say "hi";back\\slash;NULL;{x};a,b', 'say "hi";back\\slash;NULL;{x};a,b'),
        (None, ""),
    ),
}
PLACES = {
    "text": ("Title", "Email", "MasterRecordId", "Note__c", "Opens__c"),
    "number": ("Price", "Score__c"),
    "integer": ("Size", "Seats__c"),
    "boolean": ("DoNotCall", "Vip__c"),
    "date": ("Birthdate", "Due__c"),
    "datetime": ("SeenAt", "Met__c"),
    "multipicklist": ("Picks", "Tags__c"),
}


def as_csv(rows: Sequence[Sequence[str]]) -> list[Record]:
    """Cells through a CSV as the Bulk API writes it: everything in quotes, quotes doubled, lines ended by LF."""
    written = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)
    return list(csv.reader(io.StringIO(written, newline=""), strict=True))


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_same_row_by_rest_and_by_bulk(postgres: Connection, kind: str) -> None:
    """Whether a value came in JSON or in a CSV cell, the stored row is the same."""
    by_rest, by_bulk = [], []
    for json_value, cell in BOTH_WAYS[kind]:
        by_rest.append(a_record(**dict.fromkeys(PLACES[kind], json_value)))
        cells = {"Id": ID, "IsDeleted": "false", "SystemModstamp": STAMP.replace("+0000", "Z")}
        cells |= dict.fromkeys(PLACES[kind], cell)
        by_bulk.append([cells.get(name, "") for name in THING.names])

    one, other = page(*by_rest), build(THING, as_csv(by_bulk), "US")

    assert one.rejects == other.rejects == ()
    assert one.nuls == other.nuls
    exactly = [name if name != "price" else "price::text" for name in COLUMNS]
    found = stored(postgres, one, *exactly)
    assert stored(postgres, other, *exactly) == found
    assert len(found) == len(BOTH_WAYS[kind])


@pytest.mark.parametrize("deleted", [True, False])
def test_same_tombstone_by_rest_and_by_bulk(postgres: Connection, deleted: bool) -> None:
    """A tombstone is the same whichever way the record came."""
    cells = {"Id": ID, "IsDeleted": str(deleted).lower(), "SystemModstamp": "2026-01-31T12:00:00.000Z"}
    one = page(a_record(IsDeleted=deleted))
    other = build(THING, as_csv([[cells.get(name, "") for name in THING.names]]), "US")

    assert one.deleted == other.deleted == deleted
    assert stored(postgres, one) == stored(postgres, other)


@pytest.mark.parametrize(
    ("field", "json_value", "cell"),
    [("Size", "x", "x"), ("Score__c", "y", "y"), ("Birthdate", "z", "z"), ("Vip__c", 7, "7")],
)
def test_same_reject_by_rest_and_by_bulk(field: str, json_value: Any, cell: str) -> None:
    """A reject has the same reason and the same JSON whichever way the record came."""
    good = {
        "Price": Decimal("1.10"),
        "DoNotCall": False,
        "Seats__c": 4,
        "Title": "a",
        "Score__c": Decimal("2.0"),
    }
    cells = {"Id": ID, "IsDeleted": "false", "SystemModstamp": STAMP, "Price": "1.10", "DoNotCall": "false"}
    cells |= {"Seats__c": "4", "Title": "a", "Score__c": "2.0"} | {field: cell}
    one = rejected(**good | {field: json_value})
    batch = build(THING, as_csv([[cells.get(name, "") for name in THING.names]]), "US")

    assert batch.rejects == [one]


@PROPERTY
@given(
    values=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.sampled_from(BOTH_WAYS[kind]) for kind, names in PLACES.items() for name in names
            },
        ),
        min_size=1,
        max_size=8,
    )
)
def test_same_rows_of_any_mixture(postgres: Connection, values: list[dict[str, tuple[Any, str]]]) -> None:
    """Pages with values of all kinds side by side give the same rows, too."""
    required = {"Id": (ID, ID), "IsDeleted": (False, "false"), "SystemModstamp": (STAMP, STAMP)}
    whole = [required | each for each in values]
    one = page(*({name: pair[0] for name, pair in each.items()} for each in whole))
    other = build(
        THING, as_csv([[each.get(name, ("", ""))[1] for name in THING.names] for each in whole]), "US"
    )

    assert one.nuls == other.nuls
    assert stored(postgres, one) == stored(postgres, other)
