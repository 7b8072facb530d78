"""What extraction is made of: counting, landmarks, texts from JSON, and reading a result page of the Bulk API."""

from __future__ import annotations

import csv
import io
import random
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.catalogue.mapping import (
    DescribedField,
    Field,
    Kind,
    Projection,
    SObject,
    project,
)
from sync.catalogue.transform import Batch, Record
from sync.errors import SalesforceError
from sync.salesforce import soql
from sync.salesforce.extract import parts, rest, results
from sync.salesforce.extract.pages import mismatch_error
from sync.salesforce.extract.rest import Census, last_unchanged_key
from sync.salesforce.extract.results import ResultChunk, ResultPageRef, Results
from sync.salesforce.session.bodies import decode, decode_records
from sync.window import Key, Progress, Scope, Window

REPEATABLE = settings(derandomize=True, deadline=None, database=None)
UNTIL = datetime(2026, 1, 31, 12, tzinfo=UTC)
WINDOW = Window(None, UNTIL)
NAMES = ("Id", "IsDeleted", "SystemModstamp", "MasterRecordId", "Title", "Size")


def thing(*custom: str) -> Projection:
    kinds = (Kind.ID, Kind.BOOLEAN, Kind.DATETIME, Kind.REFERENCE, Kind.TEXT, Kind.INTEGER)
    types = ("id", "boolean", "datetime", "reference", "string", "int")
    sobject = SObject("Thing", "a01", tuple(Field(n, k) for n, k in zip(NAMES, kinds, strict=True)))
    org = [DescribedField(n, t, custom=False) for n, t in zip(NAMES, types, strict=True)]
    return project(sobject, [*org, *(DescribedField(name, "string", custom=True) for name in custom)])


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000+0000"


# ── windows and progress ──────────────────────────────────────────────────────────────────────────────


def test_settled_is_what_is_older_than_the_overlap() -> None:
    """Behind the overlap no transaction commits any more: what lies there has to add up."""
    assert Window(None, UNTIL).settled == UNTIL - timedelta(minutes=10)
    assert Window(None, UNTIL, timedelta(hours=1)).settled == UNTIL - timedelta(hours=1)


def test_progress_that_has_started() -> None:
    """A window was begun where a page by REST was committed, or a job was made."""
    assert not Progress().started
    assert Progress(key=Key(UNTIL, "a01")).started
    assert Progress(job="/jobs/query/750").started


def test_a_mismatch_says_what_happens_now() -> None:
    """Who reads of missing records reads that nothing is lost by it."""
    assert str(mismatch_error("Contact", "1,234", 1_233)) == (
        "Contact: Salesforce counted 1,234 records and delivered 1,233; "
        "the cursor stays where it was and the next run reads the window again"
    )


def test_length_of_a_query() -> None:
    """What a query takes in a URL is measured at its longest: a resumed one, with all its escapes."""
    wide = thing(*(f"Custom_Field_Number_{n}__c" for n in range(500)))

    assert parts.query_length(thing()) < 500
    assert parts.query_length(wide) > 500 * len("Custom_Field_Number_1__c")
    assert parts.query_length(wide) > len(soql.select(wide, Scope(UNTIL), Key(UNTIL, "0" * 18)))


# ── counting a result set ─────────────────────────────────────────────────────────────────────────────

ASKED = "2026-01-31T12:00:05"


def census() -> Census:
    return Census(ASKED, f"{UNTIL:%Y-%m-%dT%H:%M:%S}", f"{WINDOW.settled:%Y-%m-%dT%H:%M:%S}")


def noted(*records: tuple[Any, Any]) -> Census:
    """A census of (Id, stamp)s, one page each."""
    counting = census()
    for id_, at in records:
        counting.note([id_], [at])
    return counting


def counts(counting: Census) -> tuple[int, int, int]:
    """All, those within the window, the settled."""
    return counting.distinct, counting.in_window, counting.settled


OLD, OLDER = stamp(UNTIL - timedelta(days=1)), stamp(UNTIL - timedelta(days=2))
FRESH, LATE = stamp(UNTIL - timedelta(minutes=5)), stamp(UNTIL + timedelta(minutes=1))


def test_census_of_nothing() -> None:
    """An empty result set holds nothing."""
    assert counts(census()) == (0, 0, 0)


def test_census_of_a_page() -> None:
    """Records are counted, those of the window, and those that are settled."""
    counting = census()
    counting.note(["a", "b", "c", "d"], [OLDER, OLD, OLD, FRESH])

    assert counts(counting) == (4, 4, 3)


@pytest.mark.parametrize(
    ("at", "within", "settled"),
    [
        (UNTIL - timedelta(minutes=10, seconds=1), 1, 1),
        (UNTIL - timedelta(minutes=10), 1, 0),
        (UNTIL, 1, 0),
        (UNTIL + timedelta(seconds=1), 0, 0),
        (UNTIL + timedelta(seconds=4), 0, 0),
    ],
)
def test_census_at_the_borders(at: datetime, within: int, settled: int) -> None:
    """The window ends with the second of its end; settled is what lies strictly before its border."""
    assert counts(noted(("a", stamp(at)))) == (1, within, settled)


def test_census_is_the_same_however_pages_are_cut() -> None:
    """Where one page ends and the next begins, even within a second, makes no difference."""
    records = [(f"id{n}", stamp(UNTIL - timedelta(hours=5) + timedelta(seconds=n // 7))) for n in range(100)]
    whole = census()
    whole.note([id_ for id_, _ in records], [at for _, at in records])

    assert counts(whole) == counts(noted(*records)) == (100, 100, 100)


def test_repeated_rows_count_once() -> None:
    """A row that comes again, next to itself, with its page, or much later, is the same record."""
    first, second = ("a", OLDER), ("b", OLD)

    assert counts(noted(first, first, second, second)) == (2, 2, 2)
    assert counts(noted(first, second, first, second)) == (2, 2, 2)
    assert counts(noted(first, second, ("c", OLD), second, ("c", OLD), first)) == (3, 3, 3)


def test_same_id_in_another_case_is_another_record() -> None:
    """Ids that differ only in case are two records."""
    assert counts(noted(("003RO0000035WQgYAM", OLD), ("003ro0000035wqgYAM", OLD))) == (2, 2, 2)


def test_moved_records_count_once() -> None:
    """A record that changed meanwhile stands where it was, or at the end, or both: it is one record."""
    assert counts(noted(("a", OLDER), ("m", LATE), ("b", OLD))) == (3, 2, 2)
    assert counts(noted(("a", OLDER), ("m", LATE), ("b", OLD), ("m", LATE))) == (3, 2, 2)
    assert counts(noted(("a", OLDER), ("b", OLD), ("m", LATE))) == (3, 2, 2)


def test_a_moved_record_does_not_hide_those_behind_it() -> None:
    """After a stamp beyond the query those of before go on counting."""
    counting = noted(("m", LATE), ("a", OLDER), ("n", LATE), ("b", OLD), ("c", OLD), ("d", FRESH))

    assert counts(counting) == (6, 4, 3)
    assert counting.moved == {"m", "n"}


def test_changed_in_the_second_of_the_query_is_moved() -> None:
    """In the second in which the query was asked nobody knows what was before it."""
    assert noted(("a", f"{ASKED}.000+0000")).moved == {"a"}


@pytest.mark.parametrize("odd", [None, "", "yesterday", 7, Decimal("1.5"), True, ["x"], {"a": 1}])
def test_odd_stamps_count(odd: Any) -> None:
    """A record without a readable stamp is rejected further on; it is delivered all the same, and counts once."""
    assert noted(("a", OLDER), ("x", odd), ("b", OLD)).distinct == 3
    assert noted(("a", OLDER), ("x", odd), ("b", OLD), ("x", odd)).distinct == 3
    assert noted(("a", OLDER), ("x", odd), ("y", odd)).distinct == 3
    assert noted(("x", odd), ("a", OLDER), ("x", odd), ("y", odd)).distinct == 3


@pytest.mark.parametrize("odd", [None, "yesterday", 7])
def test_odd_stamps_settle_nothing(odd: Any) -> None:
    """What has no moment is in no count of Salesforce's up to a moment: it must not make up for a missing one."""
    for records in ([("x", odd), ("a", OLD)], [("a", OLD), ("x", odd)]):
        counting = noted(*records)
        assert (counting.in_window, counting.settled) == (1, 1)


def any_delivery(chance: random.Random) -> tuple[list[tuple[str, str]], list[datetime]]:
    """Records in the order of their stamps, some moved, parts of them repeated; and when the others are of."""
    size = chance.randrange(30)
    moments = sorted(UNTIL - timedelta(seconds=chance.randrange(7_000)) for _ in range(size))
    moved = {n for n in range(size) if chance.random() < 0.2}
    delivered: list[tuple[str, str]] = []
    for n, moment in enumerate(moments):
        if n not in moved:
            delivered.append((f"id{n}", stamp(moment)))
        elif chance.random() < 0.5:  # where it was; else only at the end
            delivered.append((f"id{n}", LATE))
        if chance.random() < 0.1:  # the server sends a part of what came again
            delivered += delivered[-chance.randrange(1, 8) :]
    delivered += [(f"id{n}", LATE) for n in sorted(moved)]
    return delivered, [moment for n, moment in enumerate(moments) if n not in moved]


@pytest.mark.parametrize("seed", range(5))
def test_census_of_any_delivery(seed: int) -> None:
    """Whatever comes twice or moves, what is counted is how many different records came."""
    chance = random.Random(seed)
    for _ in range(200):
        delivered, stayed = any_delivery(chance)
        ids = {id_ for id_, _ in delivered}
        counting = census()
        while delivered:
            cut = chance.randrange(1, len(delivered) + 1)
            counting.note([id_ for id_, _ in delivered[:cut]], [at for _, at in delivered[:cut]])
            del delivered[:cut]

        assert counts(counting) == (
            len(ids),
            len(stayed),
            sum(moment < WINDOW.settled for moment in stayed),
        )


def test_census_in_flat_memory() -> None:
    """Of a large window nothing is kept but its last second's Ids: a dyno has 512 MB for everything."""
    size, page = 80_000, 2_000
    begin = UNTIL - timedelta(days=30)
    counting = census()
    tracemalloc.start()
    try:
        for start in range(0, size, page):
            numbers = range(start, start + page)
            counting.note(
                [f"003{n:012d}AAA" for n in numbers],
                [stamp(begin + timedelta(seconds=n // 200)) for n in numbers],
            )
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert counts(counting) == (size, size, size)
    assert kept < size
    assert len(counting.at_top) <= 200
    assert counting.moved == counting.unstamped == set()


# ── how far a page reaches ────────────────────────────────────────────────────────────────────────────


def test_landmark_is_the_last_record() -> None:
    """A page reaches to its last record."""
    assert last_unchanged_key(["a", "b"], [OLDER, OLD], WINDOW) == Key(UNTIL - timedelta(days=1), "b")


@pytest.mark.parametrize(
    "beyond",
    [LATE, stamp(UNTIL + timedelta(seconds=1)), None, "soon", "", 7, "2026-01-31T11:00:00", "2026-01-31"],
)
def test_landmark_leaves_out_what_moved(beyond: Any) -> None:
    """A stamp beyond the window, or none at all, is no place in it: the record before it is."""
    assert last_unchanged_key(["a", "b", "c"], [OLD, beyond, beyond], WINDOW) == Key(
        UNTIL - timedelta(days=1), "a"
    )


@pytest.mark.parametrize("id_", [None, 7, ["a"]])
def test_landmark_needs_an_id(id_: Any) -> None:
    """A record without an Id is no place in the order either."""
    assert last_unchanged_key(["a", id_], [OLDER, OLD], WINDOW) == Key(UNTIL - timedelta(days=2), "a")


@pytest.mark.parametrize("stamps", [[], [LATE], [LATE, None, "soon"]])
def test_page_without_a_landmark(stamps: list[Any]) -> None:
    """A page that is empty, or of which everything moved, reaches no further than the one before."""
    assert last_unchanged_key([f"id{n}" for n, _ in enumerate(stamps)], stamps, WINDOW) is None


@pytest.mark.parametrize(
    "written", ["2026-01-31T12:00:00.000+0000", "2026-01-31T12:00:00.000Z", "2026-01-31T14:00:00.000+02:00"]
)
def test_landmark_at_the_end_of_the_window(written: str) -> None:
    """The last second of the window belongs to it, however the stamp is written."""
    assert last_unchanged_key(["a"], [written], WINDOW) == Key(UNTIL, "a")


# ── records from JSON ─────────────────────────────────────────────────────────────────────────────────


def the_text(value: Any) -> Any:
    """What becomes of a value, whatever stands beside it in its column."""
    [(alone,)] = rest.to_texts([[value]])
    *_, (beside,) = rest.to_texts([["x"], [None], [7], [value]])
    assert alone == beside
    return alone


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, ""),
        ("0", "0"),
        (0, "0"),
        (7, "7"),
        (-1, "-1"),
        (10**40, "1" + "0" * 40),
        (Decimal("1.10"), "1.10"),
        (Decimal("300.0"), "300.0"),
        (Decimal("-0.0"), "-0.0"),
        (Decimal("123456789012345678901234567890.123456789"), "123456789012345678901234567890.123456789"),
        (True, "true"),
        (False, "false"),
        ("true", "true"),
    ],
)
def test_texts_of_scalars(value: Any, text: str) -> None:
    """A JSON value becomes the text that a CSV cell would hold, with every digit; null becomes nothing."""
    assert the_text(value) == text


@pytest.mark.parametrize("number", ["4.0E8", "1.0E7", "1E-18", "0.000001", "-1.5E+30"])
def test_exponents_keep_their_value(number: str) -> None:
    """A number in another notation may change its notation, never its value or its digits."""
    value = decode(number.encode())

    assert Decimal(the_text(value)).as_tuple() == Decimal(number).as_tuple()


@pytest.mark.parametrize("value", [{"city": "Ulm"}, ["a"], {}, []])
def test_what_is_no_scalar_stays(value: Any) -> None:
    """Objects and lists are no values of any field that is read: they are left to be rejected as they are."""
    assert the_text(value) == value


def test_texts_of_an_empty_page() -> None:
    """A page may be empty."""
    assert rest.to_texts([]) == []


def test_one_odd_value_leaves_its_column_alone() -> None:
    """A number among texts changes nothing about the others, nor about null."""
    rows = rest.to_texts([["a", each] for each in ("x", None, 7, "", "y", True)])

    assert [tuple(row) for row in rows] == [("a", each) for each in ("x", "", "7", "", "y", "true")]


@REPEATABLE
@given(
    st.lists(
        st.tuples(
            *[st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False)] * 3
        ),
        max_size=6,
    )
)
def test_texts_of_any_page(records: list[tuple[Any, ...]]) -> None:
    """Whatever scalars a page holds: as many records as before, all of them texts in their places."""
    rows = rest.to_texts(records)

    assert [len(row) for row in rows] == [3] * len(records)
    for record, row in zip(records, rows, strict=True):
        for value, text in zip(record, row, strict=True):
            assert isinstance(text, str)
            assert (text == "") == (value in (None, ""))


# ── a result page of the Bulk API ─────────────────────────────────────────────────────────────────────

BORDER = f"{WINDOW.settled:%Y-%m-%dT%H:%M:%S}"
PAGE_URL = "/services/data/v66.0/jobs/query/750/results?locator=abc"


NOBODY: Any = None  # reading a page needs no session
# Instead of rows the records themselves are kept.
OF = Results(NOBODY, "Thing", NAMES, BORDER, lambda records: Batch(records=records), 10**6)


def row(id_: str, at: str = OLD, title: str = "", size: str = "") -> tuple[str, ...]:
    return (id_, "false", at.replace("+0000", "Z"), "", title, size)


def as_csv(rows: Iterable[Sequence[str]], header: Sequence[str] = NAMES, end: str = "\n") -> str:
    """As the Bulk API writes it: everything in quotes, quotes doubled."""
    return "".join(
        ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + end for cells in (header, *rows)
    )


class Lines(io.TextIOBase):
    """A body whose lines are made when they are asked for."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.left = iter(lines)

    def readline(self, _: int = -1) -> str:  # type: ignore[override]  # of this length are all of them
        return next(self.left, "")


def read(
    body: str | Iterable[str],
    count: object,
    *,
    locator: str | None = "null",
    address: ResultPageRef | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[list[ResultChunk], ResultChunk]:
    """What a page gives, and its end."""
    given: list[ResultChunk] = []
    known = {"Sforce-NumberOfRecords": str(count)} | ({"Sforce-Locator": locator} if locator else {})
    lines: Any = io.StringIO(body, newline="") if isinstance(body, str) else Lines(body)
    end = results.read_page(
        OF,
        address or ResultPageRef(0, PAGE_URL, None),
        given.append,
        known if headers is None else headers,
        lines,
    )
    return given, end


def records(given: Iterable[ResultChunk]) -> list[tuple[str, ...]]:
    return [tuple(record) for part in given for record in part.batch.records]


def test_a_page_is_read() -> None:
    """A page's records come as texts in the order of the selected fields; its end says how many there were."""
    rows = [row("a01", OLDER), row("a02", OLD, "Boss", "7"), row("a03", FRESH)]
    given, end = read(as_csv(rows), 3, address=ResultPageRef(4, PAGE_URL, "/next"))

    assert records(given) == rows
    assert {part.number for part in given} == {4}
    assert {part.next_url for part in given} == {None}
    assert end == ResultChunk(4, next_url="/next", count=3, settled=2)


def test_a_page_without_records() -> None:
    """A result may be empty: it has a header all the same."""
    given, end = read(as_csv([]), 0)

    assert records(given) == []
    assert end == ResultChunk(0, next_url="null")


NASTY = (
    *(
        "NA",
        "null",
        "NULL",
        "\\N",
        "\\.",
        "\\",
        'say "hi"',
        '"',
        '""',
        ",",
        "a,b",
        "line\nbreak",
        "cr\rlf\r\n",
    ),
    *("tab\t", " spaces ", "Zoë 日本 👩‍🚀", "\u2028", "a\0b", "\x1f\x85", "x" * 200_000, "\n", "\r"),
)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_cell_comes_through(end: str) -> None:
    """Line breaks, quotes, NULs, words that mean null elsewhere, and texts of any length come as they are."""
    rows = [row(f"a{n}", OLD, title) for n, title in enumerate(NASTY)]
    given, _ = read(as_csv(rows, end=end), len(rows))

    assert records(given) == rows


def test_cells_without_quotes() -> None:
    """Quotes are not needed around a cell without commas and quotes."""
    given, _ = read(",".join(NAMES) + "\na01,false,2026-01-30T12:00:00.000Z,,Boss,7\n", 1)

    assert records(given) == [row("a01", OLD, "Boss", "7")]


@pytest.mark.parametrize("start", ["\ufeff", ""])
@pytest.mark.parametrize("quote", ['"', ""])
def test_a_byte_order_mark_is_no_part_of_a_name(start: str, quote: str) -> None:
    """A mark before the first column's name, where there is one, is not part of it."""
    header = ",".join(f"{quote}{name}{quote}" for name in NAMES)
    given, _ = read(f"{start}{header}\n{as_csv([row('a01')]).split(chr(10), 1)[1]}", 1)

    assert records(given) == [row("a01")]


def test_columns_in_another_order() -> None:
    """Old API versions write columns in alphabetical order: each value is found by its column's name."""
    order = sorted(NAMES)
    rows = [row("a01", OLD, "Boss", "7"), row("a02", OLDER, "x")]
    turned = [[cells[NAMES.index(name)] for name in order] for cells in rows]
    given, end = read(as_csv(turned, header=order), 2)

    assert records(given) == rows
    assert end.settled == 2


def test_pages_come_in_batches() -> None:
    """A page of any size is handed on by the thousand, so that no more than that is in memory."""
    rows = [row(f"a{n}") for n in range(2_500)]
    given, end = read(as_csv(rows), 2_500)

    assert [part.records for part in given] == [1_000, 1_000, 500]
    assert records(given) == rows
    assert (end.count, end.settled) == (2_500, 2_500)


def test_records_are_given_as_they_arrive() -> None:
    """The first records are handed on before the last have arrived."""
    given: list[int] = []
    seen: list[int] = []

    def body() -> Iterator[str]:
        yield as_csv([])
        for n in range(3_000):
            if n % 1_000 == 999:
                seen.append(sum(given))
            yield as_csv([row(f"a{n}")]).split("\n", 1)[1]

    headers = {"Sforce-NumberOfRecords": "3000", "Sforce-Locator": "null"}
    lines: Any = Lines(body())
    results.read_page(
        OF, ResultPageRef(0, PAGE_URL, None), lambda part: given.append(part.records), headers, lines
    )

    assert seen == [0, 1_000, 2_000]
    assert sum(given) == 3_000


@pytest.mark.parametrize(
    ("at", "settled"),
    [
        (WINDOW.settled - timedelta(seconds=1), 1),
        (WINDOW.settled, 0),
        (WINDOW.settled + timedelta(seconds=1), 0),
        (UNTIL, 0),
        (UNTIL + timedelta(hours=1), 0),
    ],
)
def test_settled_records_of_a_page(at: datetime, settled: int) -> None:
    """Settled is what lies strictly before the border, as in a count of Salesforce's and as by REST."""
    _, end = read(as_csv([row("a01", stamp(at))]), 1)

    assert end.settled == settled == noted(("a01", stamp(at))).settled


@pytest.mark.parametrize(
    ("locator", "known", "next_url"),
    [
        ("null", None, "null"),
        ("MTAwMDA", None, "/services/data/v66.0/jobs/query/750/results?locator=MTAwMDA&maxRecords=50000"),
        (
            "a b+c&d=",
            None,
            "/services/data/v66.0/jobs/query/750/results?locator=a+b%2Bc%26d%3D&maxRecords=50000",
        ),
        ("MTAwMDA", "/listed", "/listed"),
        ("null", "/listed", "/listed"),
        ("MTAwMDA", "null", "null"),
    ],
)
def test_the_next_page(locator: str, known: str | None, next_url: str) -> None:
    """The next page is the one that the list of pages names, else the one of the page's own locator."""
    _, end = read(as_csv([]), 0, locator=locator, address=ResultPageRef(0, PAGE_URL, known))

    assert end.next_url == next_url


@pytest.mark.parametrize(
    ("body", "count", "reason"),
    [
        ("", 0, "its columns are ''"),
        ("", 3, "its columns are ''"),
        ("<html>down</html>", 1, "its columns are '<html>down</html>'"),
        (as_csv([row("a01")]), 2, "the page says 2 records and holds 1"),
        (as_csv([row("a01")]), 0, "the page says 0 records and holds 1"),
        (as_csv([row("a01")] * 2_001), 2_002, "the page says 2002 records and holds 2,001"),
        (as_csv([]), 1, "the page says 1 records and holds 0"),
        (as_csv([row("a01")]), "", "the page says  records and holds 1"),
        (as_csv([row("a01")]), "one", "the page says one records and holds 1"),
        (as_csv([row("a01")[:-1]]), 1, "a row has more or fewer cells than the header"),
        (as_csv([(*row("a01"), "x")]), 1, "a row has more or fewer cells than the header"),
        (as_csv([row("a01")]) + "\n", 2, "a row has more or fewer cells than the header"),
        (as_csv([row("a01")])[:-2], 1, "invalid CSV: unexpected end of data"),
        (as_csv([row("a01")]).replace('"a01"', '"a01"x'), 1, "invalid CSV: ',' expected after '\"'"),
        (as_csv([], header=NAMES[:-1]), 0, "its columns are"),
        (as_csv([], header=(*NAMES, "Extra")), 0, "its columns are"),
        (as_csv([], header=(*NAMES[:-1], "Sise")), 0, "its columns are"),
        (as_csv([], header=(*NAMES[:-1], "Title")), 0, "its columns are"),
        (as_csv([], header=[name.lower() for name in NAMES]), 0, "its columns are"),
    ],
)
def test_a_page_that_is_not_what_it_says(body: str, count: object, reason: str) -> None:
    """A page that is cut, padded, of other columns or no CSV at all is a ValueError: it is asked for again."""
    with pytest.raises(ValueError, match=r"^" + reason.replace("'\"'", ".*")):
        read(body, count)


@pytest.mark.parametrize("cut", range(2, 80, 3))
def test_no_cut_is_taken_for_the_whole(cut: int) -> None:
    """Wherever a body ends too early, the page is not taken for whole."""
    body = as_csv([row("a01", OLD, 'x"y'), row("a02", OLD, "line\nbreak")])
    with pytest.raises(ValueError, match=r"cells|end of data|says|columns"):
        read(body[:-cut], 2)


def test_our_own_error_is_no_spoiled_page() -> None:
    """What cannot be made of sound records is our fault: it is not taken for a page to be asked for again."""

    def make(_: Sequence[Record]) -> Batch:
        raise ValueError("a bug")

    headers = {"Sforce-NumberOfRecords": "1", "Sforce-Locator": "null"}
    lines, given = io.StringIO(as_csv([row("a01")]), newline=""), list[ResultChunk]()
    with pytest.raises(RuntimeError, match="Thing: a bug"):
        results.read_page(
            replace(OF, build_rows=make), ResultPageRef(0, PAGE_URL, None), given.append, headers, lines
        )


@pytest.mark.parametrize("missing", ["Sforce-NumberOfRecords", "Sforce-Locator"])
def test_a_page_without_its_headers(missing: str) -> None:
    """Without its headers nobody knows whether a page is whole: an error names the header, and is not retried."""
    headers = {"Sforce-NumberOfRecords": "1", "Sforce-Locator": "null"}
    del headers[missing]

    with pytest.raises(
        SalesforceError, match=f"without its header {missing}; a proxy may remove it"
    ) as failure:
        read(as_csv([row("a01")]), 1, headers=headers)
    assert failure.value.status == 0


def test_no_records_of_a_bad_page_are_given_twice() -> None:
    """A page is checked at its end: what was given before stays, and is given again when it is asked for again."""
    given: list[ResultChunk] = []
    headers = {"Sforce-NumberOfRecords": "1500", "Sforce-Locator": "null"}
    body = as_csv([row(f"a{n}") for n in range(1_400)])
    with pytest.raises(ValueError, match="holds 1,400"):
        results.read_page(
            OF, ResultPageRef(0, PAGE_URL, None), given.append, headers, io.StringIO(body, newline="")
        )

    assert [part.records for part in given] == [1_000, 400]
    assert not [part for part in given if part.next_url is not None]


@REPEATABLE
@given(
    st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=8)] * len(NAMES)), max_size=12),
    st.permutations(NAMES),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_page_comes_through(cells: list[tuple[str, ...]], order: Sequence[str], end: str) -> None:
    """Whatever the cells, the order of columns and the line ending: the same records come out."""
    turned = [[values[NAMES.index(name)] for name in order] for values in cells]
    given, last = read(as_csv(turned, header=order, end=end), len(cells))

    assert records(given) == cells
    assert last.count == len(cells)


def test_one_way_is_like_the_other() -> None:
    """A record by REST and the same by Bulk API are the same texts, but for the form of moments."""
    body = (
        '{"totalSize": 1, "done": true, "records": [{"attributes": {"type": "Thing"}, "Size": 7, "Id": "a01", '
        f'"IsDeleted": false, "Title": "x\\ny", "MasterRecordId": null, "SystemModstamp": "{OLD}"}}]}}'
    )
    by_rest = rest.to_texts(decode_records(body.encode(), NAMES)["records"])
    given, _ = read(as_csv([row("a01", OLD, "x\ny", "7")]), 1)

    assert [tuple(cell.replace("+0000", "Z") for cell in each) for each in by_rest] == records(given)


@pytest.mark.parametrize("limit", [131_073, 1_000_000])
def test_long_cells_are_read(limit: int) -> None:
    """A long text area holds more than the csv module takes by itself."""
    given, _ = read(as_csv([row("a01", OLD, "x" * limit)]), 1)

    assert len(records(given)[0][NAMES.index("Title")]) == limit
    assert csv.field_size_limit() > limit
