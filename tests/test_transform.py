"""Values: from Salesforce's JSON to what Postgres keeps, exactly, or a reject that says why not."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from sync import transform
from sync.load import copy_text
from sync.mapping import Derived, DescribedField, Field, Kind, Projection, SObject, project
from sync.objects import CATALOGUE
from sync.transform import Reject, Row, Unfit, build, e164, normalise_email, website_host

ID, OTHER_ID = "003RO0000035WQgYAM", "003RO0000035WQhYAM"
STAMP = "2026-01-31T12:00:00.000+0000"

# One field of each kind, with the describe type and the Postgres type it belongs to.
FIELDS: tuple[tuple[Field, str, str], ...] = (
    (Field("Id", Kind.ID), "id", "text"),
    (Field("IsDeleted", Kind.BOOLEAN), "boolean", "boolean"),
    (Field("SystemModstamp", Kind.DATETIME), "datetime", "timestamptz"),
    (Field("MasterRecordId", Kind.TEXT), "reference", "text"),
    (Field("Title", Kind.TEXT), "string", "text"),
    (Field("Picks", Kind.MULTIPICKLIST), "multipicklist", "text[]"),
    (Field("Size", Kind.INTEGER), "int", "bigint"),
    (Field("Price", Kind.NUMBER), "currency", "numeric"),
    (Field("Birthdate", Kind.DATE), "date", "date"),
    (Field("Email", Kind.TEXT, (Derived("email_normalized", normalise_email),)), "email", "text"),
)
CUSTOM = (("Note__c", "string"), ("Score__c", "double"), ("Tags__c", "multipicklist"), ("Vip__c", "boolean"))


def projection() -> Projection:
    sobject = SObject("Thing", "003", tuple(field for field, _, _ in FIELDS))
    org = [DescribedField(field.name, kind, custom=False) for field, kind, _ in FIELDS]
    return project(sobject, [*org, *(DescribedField(name, kind, custom=True) for name, kind in CUSTOM)])


THING = projection()
# The same examples each time: a suite that fails by chance is no help to who changed something else.
REPEATABLE = settings(derandomize=True, deadline=None, database=None)
PROPERTY = settings(REPEATABLE, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_record(**values: Any) -> dict[str, Any]:
    """A record as the API delivers it: every selected field, null unless given."""
    empty: dict[str, Any] = {"attributes": {"type": "Thing"}} | dict.fromkeys(THING.names)
    return empty | {"Id": ID, "IsDeleted": False, "SystemModstamp": STAMP} | values


def built(**values: Any) -> dict[str, str | None]:
    """The one row of one record, by column."""
    batch = build(THING, [a_record(**values)], "US")
    assert batch.rejects == ()
    return dict(zip([*THING.columns, "custom"], batch.rows[0].values, strict=True))


def rejected(**values: Any) -> Reject:
    batch = build(THING, [a_record(**values)], "US")
    assert batch.rows == ()
    return batch.rejects[0]


# ── one value ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("convert", "value", "kept"),
    [
        (transform.text, "plain", "plain"),
        (transform.text, "", ""),
        (transform.text, "NA", "NA"),
        (transform.text, "01234", "01234"),
        (transform.text, "  spaces stay  ", "  spaces stay  "),
        (transform.text, "tab\tline\nreturn\rback\\slash", "tab\tline\nreturn\rback\\slash"),
        (transform.text, "Zoë 日本 🏳️‍🌈 \u202e", "Zoë 日本 🏳️‍🌈 \u202e"),
        (transform.identifier, ID, ID),
        (transform.boolean, True, "t"),
        (transform.boolean, False, "f"),
        (transform.number, 0, "0"),
        (transform.number, 400, "400"),
        (transform.number, Decimal("300.0"), "300.0"),
        (transform.number, Decimal("4.0E8"), "4.0E+8"),
        (transform.number, Decimal("-0.10"), "-0.10"),
        (transform.number, 999_999_999_999_999_999, "999999999999999999"),
        (transform.number, Decimal("123456789012345678.90"), "123456789012345678.90"),
        (transform.number, Decimal("0.000000000000000001"), "1E-18"),
        (transform.integer, 42, "42"),
        (transform.integer, -1, "-1"),
        (transform.integer, Decimal("400.0"), "400"),
        (transform.integer, Decimal("4.0E8"), "400000000"),
        (transform.integer, 2**63 - 1, "9223372036854775807"),
        (transform.integer, -(2**63), "-9223372036854775808"),
        (transform.day, "1700-01-01", "1700-01-01"),
        (transform.day, "4000-12-31", "4000-12-31"),
        (transform.day, "2024-02-29", "2024-02-29"),
        (transform.instant, "2011-07-07T00:37:00.000+0000", "2011-07-07T00:37:00+00:00"),
        (transform.instant, "2011-07-07T00:37:00Z", "2011-07-07T00:37:00+00:00"),
        (transform.instant, "2011-07-07T06:07:00.000+05:30", "2011-07-07T06:07:00+05:30"),
        (transform.instant, "2011-07-07T06:07:00.000+0530", "2011-07-07T06:07:00+05:30"),
        (transform.instant, "2011-07-07T00:37:00.123Z", "2011-07-07T00:37:00.123000+00:00"),
        (transform.instant, "1700-01-01T00:00:00.000+0000", "1700-01-01T00:00:00+00:00"),
        (transform.instant, "4000-12-31T23:59:59.000+0000", "4000-12-31T23:59:59+00:00"),
        (transform.multipicklist, "", "{}"),
        (transform.multipicklist, "one", '{"one"}'),
        (transform.multipicklist, "one;two", '{"one","two"}'),
        (transform.multipicklist, "a,b;c", '{"a,b","c"}'),
        (transform.multipicklist, 'say "hi";back\\slash', '{"say \\"hi\\"","back\\\\slash"}'),
        (transform.multipicklist, "NULL;{x}; y ", '{"NULL","{x}"," y "}'),
    ],
)
def test_values_are_kept(convert: Callable[[object], str], value: object, kept: str) -> None:
    """A value that fits is kept as it is, in the form that Postgres reads."""
    assert convert(value) == kept


@pytest.mark.parametrize(
    ("convert", "value", "reason"),
    [
        (transform.text, 7, "expected text, got a number"),
        (transform.text, Decimal("7.5"), "expected text, got a number"),
        (transform.text, True, "expected text, got true/false"),
        (transform.text, {"city": "Ulm"}, "expected text, got an object"),
        (transform.text, ["a"], "expected text, got a list"),
        (transform.text, "half \ud83d", "half of a surrogate pair at character 6"),
        (transform.identifier, "003RO0000035WQg", "an Id has 18 characters, not 15"),
        (transform.identifier, "", "an Id has 18 characters, not 0"),
        (transform.identifier, 3, "expected text, got a number"),
        (transform.boolean, "true", "expected true or false, got text"),
        (transform.boolean, 1, "expected true or false, got a number"),
        (transform.number, "1", "expected a number, got text"),
        (transform.number, True, "expected a number, got true/false"),
        (transform.number, Decimal("NaN"), "number out of range"),
        (transform.number, Decimal("Infinity"), "number out of range"),
        (transform.number, Decimal("1E+131072"), "number out of range"),
        (transform.number, Decimal("1E-16384"), "number out of range"),
        (transform.integer, Decimal("4.5"), "expected a whole number, got 4.5"),
        (transform.integer, 2**63, "number out of range"),
        (transform.integer, -(2**63) - 1, "number out of range"),
        (transform.integer, "4", "expected a number, got text"),
        (transform.day, "2023-02-29", "not a date: '2023-02-29'"),
        (transform.day, "31.01.2026", "not a date: '31.01.2026'"),
        (transform.day, "2026-01-31T00:00:00Z", "not a date: '2026-01-31T00:00:00Z'"),
        (transform.day, "", "not a date: ''"),
        (transform.day, 20260131, "expected text, got a number"),
        (transform.instant, "2011-07-07T00:37:00", "a date and time without its zone: '2011-07-07T00:37:00'"),
        (transform.instant, "2011-07-07", "a date and time without its zone: '2011-07-07'"),
        (transform.instant, "2011-13-07T00:37:00Z", "not a date and time: '2011-13-07T00:37:00Z'"),
        (transform.instant, "x" * 500, f"not a date and time: '{'x' * 40}'"),
        (transform.instant, 1_310_000_000, "expected text, got a number"),
        (transform.multipicklist, ["a"], "expected text, got a list"),
        (transform.multipicklist, "a;\udc00", "half of a surrogate pair at character 3"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    convert: Callable[[object], str], value: object, reason: str
) -> None:
    """A value that Postgres could not keep exactly is refused with the reason, never bent."""
    with pytest.raises(Unfit, match=f"^{re.escape(reason)}$"):
        convert(value)


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
    ("raw", "region", "number"),
    [
        ("(415) 555-2671", "US", "+14155552671"),
        ("415.555.2671", "US", "+14155552671"),
        ("4155552671", "US", "+14155552671"),
        ("1-415-555-2671", "US", "+14155552671"),
        ("+1 415 555 2671", "DE", "+14155552671"),
        ("011 49 30 901820", "US", "+4930901820"),
        ("0049 30 901820", "DE", "+4930901820"),
        ("(030) 90 18 20", "DE", "+4930901820"),
        ("+44 (0)20 7946 0958", "US", "+442079460958"),
        ("415-555-2671 ext. 12", "US", "+14155552671"),
        ("415-555-2671 x12", "US", "+14155552671"),
        ("tel:+1-415-555-2671", "US", "+14155552671"),
        ("\u202d+1 415 555 2671\u202c", "US", "+14155552671"),
        ("+１ ４１５ ５５５ ２６７１", "US", "+14155552671"),
        ("1-800-FLOWERS", "US", "+18003569377"),
        ("030 901820", "US", None),
        ("555-2671", "US", None),
        ("123", "US", None),
        ("", "US", None),
        ("call me", "US", None),
        ("+999 12345678", "US", None),
        ("9" * 400, "US", None),
        ("415-555-2671 or 415-555-2672", "US", None),
    ],
)
def test_phone(raw: str, region: str, number: str | None) -> None:
    """A valid number in any usual notation becomes E.164, by its own country code or the default region."""
    assert e164(raw, region) == number


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


@settings(REPEATABLE, max_examples=400)
@given(FREE_TEXT | LINES | st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_derived_columns_of_any_text(raw: str) -> None:
    """Whatever the text, a derived value is null or well-formed, and deriving it again changes nothing."""
    for normalise, form in (
        (normalise_email, r"[^@\s]+@[^@\s]+\.[^@\s]+"),
        (e164, r"\+[1-9]\d{3,14}"),
        (website_host, r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)+"),
    ):
        value = normalise(raw, "US")
        if value is not None:
            assert re.fullmatch(form, value), f"{normalise}: {value!r}"
            assert normalise(value, "US") == value


# ── one record ────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_has_every_column_in_order() -> None:
    """A record becomes one text per column, in the order of the columns, custom fields last."""
    batch = build(
        THING,
        [
            a_record(
                Title="Director",
                Picks="a;b",
                Size=7,
                Price=Decimal("12.50"),
                Birthdate="1990-05-01",
                Email=" Ann@Example.com",
                Note__c="hello",
                Score__c=Decimal("1.10"),
                Tags__c="x;y",
                Vip__c=True,
            )
        ],
        "US",
    )

    assert batch.rejects == ()
    assert THING.columns == (
        *("id", "is_deleted", "system_modstamp", "master_record_id", "title", "picks", "size", "price"),
        *("birthdate", "email", "email_normalized"),
    )
    assert batch.rows[0].id == ID
    assert batch.rows[0].nuls == 0
    assert batch.rows[0].values == (
        ID,
        "f",
        "2026-01-31T12:00:00+00:00",
        None,
        "Director",
        '{"a","b"}',
        "7",
        "12.50",
        "1990-05-01",
        " Ann@Example.com",
        "ann@example.com",
        '{"Note__c":"hello","Score__c":1.10,"Tags__c":["x","y"],"Vip__c":true}',
    )


def test_null_stays_null() -> None:
    """A null is a null in every column, and in `custom` it is kept as one."""
    row = built()

    assert {column for column, value in row.items() if value is None} == {
        *("master_record_id", "title", "picks", "size", "price", "birthdate", "email", "email_normalized")
    }
    assert row["custom"] == '{"Note__c":null,"Score__c":null,"Tags__c":null,"Vip__c":null}'


def test_empty_text_is_not_null() -> None:
    """Salesforce keeps no empty texts; one that does turn up stays what it is, and derives nothing."""
    row = built(Title="", Email="")

    assert (row["title"], row["email"], row["email_normalized"]) == ("", "", None)


def test_nul_is_removed_and_counted() -> None:
    """Postgres keeps no NUL: it is removed, wherever it is, and counted."""
    batch = build(
        THING,
        [a_record(Title="a\0b\0", Picks="x\0;y", Email="\0ann@example.com", Note__c="n\0", Tags__c="t\0;u")],
        "US",
    )
    row = dict(zip([*THING.columns, "custom"], batch.rows[0].values, strict=True))

    assert batch.rows[0].nuls == 6
    assert (row["title"], row["picks"], row["email_normalized"]) == ("ab", '{"x","y"}', "ann@example.com")
    assert json.loads(row["custom"] or "")["Note__c"] == "n"
    assert json.loads(row["custom"] or "")["Tags__c"] == ["t", "u"]


@pytest.mark.parametrize(
    ("text", "decimal"),
    [("1.10", "1.10"), ("123456789012345678.123456789", "123456789012345678.123456789"), ("4.0E8", "4.0E+8")],
)
def test_custom_numbers_keep_every_digit(text: str, decimal: str) -> None:
    """Custom numbers are numbers in JSON, with the digits that Salesforce sent."""
    custom = built(Score__c=Decimal(text))["custom"] or ""

    assert json.loads(custom, parse_float=Decimal)["Score__c"] == Decimal(decimal)
    assert f'"Score__c":{decimal}' in custom


def test_region_decides_about_national_numbers() -> None:
    """The default region is a setting, handed through to the phone columns."""
    contact = project(
        CATALOGUE["Contact"],
        [
            DescribedField(field.name, field.kind.value[0], custom=False)
            for field in CATALOGUE["Contact"].fields
        ],
    )
    record = {"Id": ID, "IsDeleted": False, "SystemModstamp": STAMP, "Phone": "(030) 901820"}
    place = contact.columns.index("phone_e164")

    assert build(contact, [record], "DE").rows[0].values[place] == "+4930901820"
    assert build(contact, [record], "US").rows[0].values[place] is None


# ── rejects ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("Title", 7, "Title: expected text, got a number"),
        ("Size", "seven", "Size: expected a number, got text"),
        ("Birthdate", "soon", "Birthdate: not a date: 'soon'"),
        ("SystemModstamp", "2026-01-31T12:00:00", "SystemModstamp: a date and time without its zone"),
        ("SystemModstamp", None, "SystemModstamp: missing"),
        ("IsDeleted", None, "IsDeleted: missing"),
        ("Id", None, "Id: missing"),
        ("Id", "003", "Id: an Id has 18 characters, not 3"),
        ("Note__c", "half \ud83d", "Note__c: half of a surrogate pair at character 6"),
    ],
)
def test_reject_names_field_and_reason(field: str, value: Any, reason: str) -> None:
    """A record that does not fit is rejected with the field's name and the reason."""
    assert rejected(**{field: value}).reason.startswith(reason)


def test_reject_holds_the_whole_record() -> None:
    """A reject keeps every value of the record, digits and nulls included, and drops only `attributes`."""
    one = rejected(Title=7, Price=Decimal("123456789012345678.90"), Picks="a;b", Note__c="note")
    kept = json.loads(one.record, parse_float=Decimal)

    assert (one.id, one.stamp) == (ID, "2026-01-31T12:00:00+00:00")
    assert kept == {
        name: value
        for name, value in a_record(
            Title=7, Price=Decimal("123456789012345678.90"), Picks="a;b", Note__c="note"
        ).items()
        if name != "attributes"
    }


def test_reject_with_half_a_surrogate_is_ascii() -> None:
    """A lone surrogate cannot be stored, yet the reject's JSON is valid ASCII and shows where it was."""
    one = rejected(Title="half \ud83d pair", Note__c="Zoë \U0001f642")

    assert one.reason == "Title: half of a surrogate pair at character 6"
    assert one.record.isascii()
    kept = json.loads(one.record)
    assert kept["Note__c"] == "Zoë \U0001f642"
    assert "d83d" in one.record.lower()


def test_reject_with_nul_is_valid_json() -> None:
    """A NUL in a rejected record survives as an escape."""
    one = rejected(Title=7, Note__c="a\0b")

    assert "\0" not in one.record
    assert json.loads(one.record)["Note__c"] == "a\0b"


def test_reject_without_a_usable_stamp() -> None:
    """A record without a readable stamp is rejected without one, rather than with a wrong one."""
    assert rejected(SystemModstamp="yesterday").stamp is None
    assert rejected(SystemModstamp=7).stamp is None
    assert rejected(SystemModstamp=None).stamp is None


def test_one_bad_record_leaves_the_others_alone() -> None:
    """A page with one bad record is stored without it, in its order."""
    records = [a_record(), a_record(Id=OTHER_ID, Size="x"), a_record(Id=ID[:-3] + "AAA", Title="third")]
    batch = build(THING, records, "US")

    assert [row.id for row in batch.rows] == [ID, ID[:-3] + "AAA"]
    assert [(one.id, one.reason) for one in batch.rejects] == [
        (OTHER_ID, "Size: expected a number, got text")
    ]


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


@settings(REPEATABLE, max_examples=200)
@given(st.lists(RECORDS | MOSTLY_GOOD, max_size=4))
@example([a_record(Id="\0")])
@example([a_record(Id="\ud83d" * 18)])
@example([a_record(Note__c=["\ud83d"])])
@example([a_record(Note__c={"\ud83d": "\0"})])
def test_every_record_is_a_row_or_a_reject(records: list[dict[str, Any]]) -> None:
    """Whatever Salesforce sends, each record becomes a row or a reject; none is dropped, nothing crashes."""
    batch = build(THING, records, "US")

    assert len(batch.rows) + len(batch.rejects) == len(records)
    for row in batch.rows:
        assert len(row.values) == len(THING.columns) + 1
        assert not any("\0" in value for value in row.values if value is not None)
        assert not any(value != value.encode().decode() for value in row.values if value is not None)
    for one in batch.rejects:
        json.loads(one.record)
        assert "\0" not in one.id + one.reason + one.record
        (one.id + one.reason + one.record).encode()


# ── into Postgres and back ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cursor(server: str) -> Iterator[Any]:
    """A cursor in a real Postgres, with a temporary table of one column per kind."""
    types = [kind for field, _, kind in FIELDS for _ in (field, *field.derived)]
    columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate([*types, "jsonb"]))
    raw = create_engine(server, poolclass=NullPool).raw_connection()
    with closing(raw) as connection, closing(connection.cursor()) as open_cursor:
        open_cursor.execute("SET timezone = 'UTC'")
        open_cursor.execute(f"CREATE TEMPORARY TABLE kept (position bigint, {columns})")
        open_cursor.execute("CREATE TEMPORARY TABLE texts (position bigint, value text)")
        yield open_cursor


def stored(cursor: Any, table: str, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Rows through COPY into a table and back, without their position."""
    cursor.execute(f"TRUNCATE {table}")
    cursor.copy_expert(f"COPY {table} FROM STDIN", io.BytesIO(copy_text(rows)))
    cursor.execute(f"SELECT * FROM {table} ORDER BY position")
    return [found[1:] for found in cursor.fetchall()]


def test_every_kind_through_postgres(cursor: Any) -> None:
    """Every kind of value comes back from Postgres as the value that Salesforce sent."""
    record = a_record(
        Title='tab\t line\n return\r back\\slash \\N \\. "quoted" Zoë 🙂',
        Picks='a,b;say "hi";back\\slash;NULL;{x}',
        Size=-(2**63),
        Price=Decimal("-123456789012345678.90"),
        Birthdate="1700-01-01",
        Email="Ann@Example.com",
        Note__c="\u2028 \x1f \\u0000 '",
        Score__c=Decimal("0.10"),
        Tags__c="b;a",
        Vip__c=False,
    )

    assert stored(cursor, "kept", build(THING, [record], "US").rows) == [
        (
            ID,
            False,
            datetime(2026, 1, 31, 12, tzinfo=UTC),
            None,
            record["Title"],
            ["a,b", 'say "hi"', "back\\slash", "NULL", "{x}"],
            -(2**63),
            Decimal("-123456789012345678.90"),
            date(1700, 1, 1),
            "Ann@Example.com",
            "ann@example.com",
            {"Note__c": record["Note__c"], "Score__c": 0.1, "Tags__c": ["b", "a"], "Vip__c": False},
        )
    ]


def test_stored_digits_are_the_sent_digits(cursor: Any) -> None:
    """Not only the value: 300.0 stays 300.0, and 4.0E8 is 400000000."""
    sent = ("300.0", "1.10", "4.0E8", "123456789012345678.90", "1E-18")
    stored(cursor, "kept", build(THING, [a_record(Price=Decimal(text)) for text in sent], "US").rows)
    cursor.execute(f"SELECT c{THING.columns.index('price')}::text FROM kept ORDER BY position")

    assert [row[0] for row in cursor.fetchall()] == [
        "300.0",
        "1.10",
        "400000000",
        "123456789012345678.90",
        "0.000000000000000001",
    ]


@PROPERTY
@given(texts=st.lists(st.text() | st.text(alphabet="\\\t\n\r\0N.;\"'{}"), min_size=1, max_size=20))
def test_any_text_survives_copy(cursor: Any, texts: list[str]) -> None:
    """Any text, stored with COPY, is read back as it was; only NUL is gone."""
    rows = build(THING, [a_record(Title=text) for text in texts], "US").rows
    place = THING.columns.index("title")

    alone = [Row(row.id, (row.values[place],), 0, row.record) for row in rows]
    assert stored(cursor, "texts", alone) == [(text.replace("\0", ""),) for text in texts]
    assert sum(row.nuls for row in rows) == sum(text.count("\0") for text in texts)


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
def test_any_number_survives_copy(cursor: Any, numbers: list[Decimal | int]) -> None:
    """Any number that Salesforce can hold comes back equal, to the last digit."""
    rows = build(THING, [a_record(Price=number) for number in numbers], "US").rows
    place = THING.columns.index("price")

    assert [found[place] for found in stored(cursor, "kept", rows)] == numbers


@PROPERTY
@given(
    moments=st.lists(
        st.datetimes(
            datetime(1700, 1, 2),  # noqa: DTZ001 — the strategy takes its bounds without a zone
            datetime(4000, 12, 30),  # noqa: DTZ001 — naive on purpose
            timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_moment_survives_copy(cursor: Any, moments: list[datetime]) -> None:
    """Any moment, whatever its offset, comes back as the same moment, and any date as the same date."""
    records = [a_record(SystemModstamp=m.isoformat(), Birthdate=m.date().isoformat()) for m in moments]
    found = stored(cursor, "kept", build(THING, records, "US").rows)

    assert [row[THING.columns.index("system_modstamp")] for row in found] == moments
    assert [row[THING.columns.index("birthdate")] for row in found] == [m.date() for m in moments]


CHOICE = st.text(st.characters(codec="utf-8", exclude_characters=";\0"), min_size=1, max_size=10)


@PROPERTY
@given(choices=st.lists(CHOICE, max_size=6))
def test_any_choices_survive_copy(cursor: Any, choices: list[str]) -> None:
    """Any choices of a multipicklist come back as the same list, as a column and in `custom`."""
    joined = ";".join(choices)
    [row] = stored(cursor, "kept", build(THING, [a_record(Picks=joined, Tags__c=joined)], "US").rows)

    assert row[THING.columns.index("picks")] == choices
    assert row[-1]["Tags__c"] == choices


@PROPERTY
@given(value=st.text() | st.booleans() | st.integers(-(10**15), 10**15) | st.none())
def test_any_custom_value_survives_copy(cursor: Any, value: Any) -> None:
    """Any custom value comes back from jsonb as it was; only NUL is gone."""
    [row] = stored(cursor, "kept", build(THING, [a_record(Note__c=value)], "US").rows)

    assert row[-1]["Note__c"] == (value.replace("\0", "") if isinstance(value, str) else value)


@PROPERTY
@given(record=MOSTLY_GOOD)
def test_any_reject_is_json_for_postgres(cursor: Any, record: dict[str, Any]) -> None:
    """Whatever the record holds, Postgres takes its reject as json and gives it back parsed."""
    one = transform.reject(record, "a reason")
    cursor.execute("SELECT %s::json", (one.record,))

    assert set(cursor.fetchone()[0]) == set(record) - {"attributes"}


def test_json_encoder_writes_numbers() -> None:
    """Decimals are JSON numbers: as strings, consumers would have to know which fields are numbers."""
    assert transform.plain_json({"a": Decimal("1.10"), "b": [Decimal("4.0E8")]}) == '{"a":1.10,"b":[4.0E+8]}'
    assert msgspec.json.decode(b'{"a":1.10}', type=dict[str, Decimal]) == {"a": Decimal("1.10")}
