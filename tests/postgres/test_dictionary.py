"""What consumers rely on: published columns stay, each has a comment, and docs/data-dictionary.md shows them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from migrations import dictionary
from migrations.dictionary import functions, relations
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.labels import listed
from sync.postgres import tables

# The lines of what is published, in order; a team's own objects and fields are not the product's to publish.
PUBLISHED = Path(__file__).with_name("published.txt")
OWN_OBJECTS = ("account", "contact")


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A transaction in a migrated database, rolled back at the end."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def columns(connection: Connection) -> dict[str, list[str]]:
    """The views of schema crm, each with its columns and their types as `published.txt` has them."""
    return {
        f"crm.{view.name}": [f"{name} {kind}" for name, kind, _ in view.columns]
        for view in relations(connection, "crm")
    }


def broken(connection: Connection) -> list[str]:
    """What the database lacks of what is published."""
    lines = [line for line in PUBLISHED.read_text().splitlines() if line and not line.startswith("#")]
    views: dict[str, list[str]] = {}
    for view, _, column in (line.partition(" ") for line in lines if "(" not in line.split(" ")[0]):
        views.setdefault(view, []).append(column)
    there = columns(connection)
    found = [
        f"{view}: {wanted} is now {shown}"
        for view, published in views.items()
        for wanted, shown in zip_longest(published, there.get(view, [])[: len(published)])
        if wanted != shown
    ]
    signatures = {f"crm.{each.name} {each.result}" for each in functions(connection)}
    return found + [line for line in lines if "(" in line.split(" ")[0] and line not in signatures]


# ── the contract ──────────────────────────────────────────────────────────────────────────────────────


def test_what_is_published_stays(connection: Connection) -> None:
    """No view loses, moves or retypes a published column, and no function its parameters or its result."""
    assert broken(connection) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP VIEW crm.freshness", "crm.freshness: object text is now None"),
        (
            "ALTER VIEW crm.customer RENAME COLUMN title TO job",
            "crm.customer: title text is now job text",
        ),
        (
            "DROP FUNCTION crm.resolve_id; CREATE FUNCTION crm.resolve_id(id text, deep boolean) RETURNS text "
            "LANGUAGE sql AS 'SELECT NULL'",
            "crm.resolve_id(id text) text",
        ),
        (
            "DROP VIEW crm.account; CREATE VIEW crm.account AS SELECT id::varchar FROM salesforce.account",
            "crm.account: id text is now id character varying",
        ),
    ],
)
def test_what_breaks_the_contract_is_told(connection: Connection, change: str, told: str) -> None:
    """The test before this one can fail, and names the column or the function."""
    connection.execute(text(change))

    assert told in broken(connection)


def test_the_products_own_columns_are_published(connection: Connection) -> None:
    """A release publishes every column of views that speak of no single object, and every function."""
    lines = set(PUBLISHED.read_text().splitlines())
    objects = {f"crm.{table.name}" for table in tables.REPLICA.values()}
    shown = {
        f"{view} {column}"
        for view, each in columns(connection).items()
        if view not in objects
        for column in each
    }
    shown |= {f"crm.{each.name} {each.result}" for each in functions(connection)}

    assert shown - lines == set(), f"append them to {PUBLISHED.name}, behind those of the same view"


# ── comments ──────────────────────────────────────────────────────────────────────────────────────────


def bare(connection: Connection) -> list[str]:
    """What has no comment: relations and columns of crm and of the replicas, functions and their parameters."""
    entries = [("crm", each) for each in (*relations(connection, "crm"), *functions(connection))]
    entries += [(tables.REPLICAS, each) for each in relations(connection, tables.REPLICAS)]
    return [
        f"{schema}.{each.name} {name}".strip()
        for schema, each in entries
        for name, what in [("", each.what), *((name, what) for name, _, what in each.columns)]
        if not what
    ]


def test_every_column_has_a_comment(connection: Connection) -> None:
    """Each view, column, function, parameter and column of a result says what it is."""
    assert bare(connection) == []


def test_what_has_no_comment_is_told(connection: Connection) -> None:
    """The test before this one can fail."""
    connection.execute(
        text(
            "COMMENT ON COLUMN crm.customer.title IS NULL; COMMENT ON COLUMN salesforce.contact.email IS NULL; "
            "COMMENT ON FUNCTION crm.resolve_id(text) IS 'Follows merges.'"
        )
    )

    assert bare(connection) == [
        "crm.customer title",
        "crm.resolve_id(id text) id",
        "salesforce.contact email",
    ]


def test_comments_say_field_label_type_and_origin(connection: Connection) -> None:
    """A column of a field names it, its label and its type; a derived one what it is computed from."""
    what = {
        f"{view.name}.{name}": what for view in relations(connection, "crm") for name, _, what in view.columns
    }

    assert what["account.billing_postal_code"] == (
        "Salesforce field Account.BillingPostalCode (Billing Zip/Postal Code): text."
    )
    assert (
        what["contact.birthdate"]
        == "Salesforce field Contact.Birthdate (Birthdate): date, without a time zone."
    )
    assert what["contact.email_normalized"] == (
        "Computed from Salesforce field Contact.Email: the address, trimmed and in lower case; "
        "null where it is not one address."
    )
    assert what["customer.account_name"] == (
        "Of the contact's account. Salesforce field Account.Name (Account Name): text."
    )


def test_labels_are_of_fields_that_exist() -> None:
    """Each line of labels.txt is of a field of the catalogue, and has a label."""
    fields = {f"{name}.{field.name}" for name, one in CATALOGUE.items() for field in one.fields}

    assert {name for name, label in listed().items() if name not in fields or not label} == set()


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_is_what_the_database_says(connection: Connection) -> None:
    """docs/data-dictionary.md has what `make docs` would write of the product's own views and functions."""
    written = dictionary.sections(dictionary.PAGE.read_text())
    others = {f"{each}.{t.name}" for t in tables.REPLICA.values() for each in ("crm", tables.REPLICAS)}
    others -= {f"{each}.{name}" for name in OWN_OBJECTS for each in ("crm", tables.REPLICAS)}
    expected = dictionary.sections(dictionary.page(connection))

    stale = [name for name, part in expected.items() if name not in others and written.get(name) != part]
    assert stale == [], "run make docs"
