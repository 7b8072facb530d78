"""The tables of schema `sync`: all state beside the replicas."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

BOOKKEEPING = "sync"

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "pk": "%(table_name)s_pkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def timestamp_column(name: str, *, nullable: bool = True, now: bool = False) -> Column[Any]:
    """Return a timestamptz column."""
    return Column(
        name, DateTime(timezone=True), nullable=nullable, server_default=text("now()") if now else None
    )


Table(
    "cursor",
    metadata,
    Column("object", Text(), primary_key=True),
    timestamp_column("complete_through"),
    timestamp_column("covered"),
    timestamp_column("deleted_through"),
    timestamp_column("deleted_asked"),
    timestamp_column("verified_through"),
    timestamp_column("refreshed_at"),
    timestamp_column("emptied_through"),
    timestamp_column("deletions_refused_at"),
    timestamp_column("slow_since"),
    Column("coverage_lag", Interval()),
    timestamp_column("coverage_asked"),
    # The longest come last: an update writes all that lies between the columns that it changes.
    Column("hidden", ARRAY(Text()), nullable=False, server_default=text("'{}'")),
    Column("backfill", ARRAY(Text()), nullable=False, server_default=text("'{}'")),
    Column("selection", Text()),
    schema=BOOKKEEPING,
    comment="How far each object is complete, and deletions and values are known; hidden and late fields.",
)
Table(
    "progress",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("purpose", Text(), primary_key=True),
    timestamp_column("since"),
    timestamp_column("until", nullable=False),
    timestamp_column("key_stamp"),
    timestamp_column("covered"),
    Column("key_id", Text()),
    Column("job", Text()),
    Column("page_url", Text(), nullable=False, server_default=text("''")),
    Column("received", BigInteger(), nullable=False, server_default=text("0")),
    Column("settled", BigInteger(), nullable=False, server_default=text("0")),
    Column("selected", Text(), nullable=False, server_default=text("''")),
    Column("epoch", BigInteger(), nullable=False, server_default=text("0")),
    timestamp_column("began_at"),
    Column("total", BigInteger(), nullable=False, server_default=text("0")),
    Column("mismatches", Integer(), nullable=False, server_default=text("0")),
    schema=BOOKKEEPING,
    comment="How far an unfinished window's committed pages reach; a restart resumes there.",
)
Table(
    "lease",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("owner", Text()),
    Column("fence", BigInteger(), nullable=False, server_default=text("0")),
    timestamp_column("expires_at", nullable=False),
    Column("epoch", BigInteger(), nullable=False, server_default=text("0")),
    schema=BOOKKEEPING,
    comment="One writer per object; the fence grows with each owner, the epoch with each commit of records.",
)
Table(
    "run",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("object", Text(), nullable=False),
    Column("command", Text(), nullable=False),
    Column("owner", Text(), nullable=False),
    timestamp_column("started_at", nullable=False, now=True),
    timestamp_column("finished_at"),
    Column("outcome", Text(), nullable=False, server_default=text("'running'")),
    timestamp_column("since"),
    timestamp_column("until"),
    timestamp_column("complete_through"),
    *(
        Column(name, BigInteger(), nullable=False, server_default=text("0"))
        for name in (
            *("read", "inserted", "updated", "deleted", "unchanged", "rejected"),
            *("nuls_removed", "api_calls"),
        )
    ),
    Column("passes", Integer(), nullable=False, server_default=text("0")),
    Column("shared_calls", Integer(), nullable=False, server_default=text("0")),
    Column("error", Text()),
    Column("findings", JSONB()),
    Column("error_class", Text()),
    Column("calls", JSONB(), nullable=False, server_default=text("'{}'")),
    Index(None, "object", "id"),
    CheckConstraint(
        "outcome IN ('running', 'succeeded', 'failed', 'deferred', 'stopped', 'abandoned')", name="outcome"
    ),
    schema=BOOKKEEPING,
    comment="The journal: one line per object and run.",
)
Table(
    "budget",
    metadata,
    Column("single", Boolean(), primary_key=True, server_default=text("true")),
    Column("used", BigInteger()),
    Column("daily_limit", BigInteger()),
    timestamp_column("seen_at"),
    Column("deferred", JSONB(), nullable=False, server_default=text("'{}'")),
    CheckConstraint("single", name="single"),
    schema=BOOKKEEPING,
    comment="The org's API requests as last seen, and which kinds of work are deferred since when.",
)
Table(
    "feed",
    metadata,
    Column("single", Boolean(), primary_key=True, server_default=text("true")),
    Column("last_seq", BigInteger(), nullable=False, server_default=text("0")),
    Column("slot", SmallInteger(), nullable=False, server_default=text("0")),
    timestamp_column("slot_since", nullable=False, now=True),
    CheckConstraint("single", name="single"),
    schema=BOOKKEEPING,
    comment="The last number given; its row lock makes the order of numbers the order of commits.",
)
SLOTS = 8  # partitions of the feed, which are emptied in turn
CHANGE = Table(
    "change",
    metadata,
    Column("seq", BigInteger(), nullable=False, autoincrement=False),
    Column("object", Text(), nullable=False),
    Column("record_id", Text(collation="C")),
    Column("op", Text(), nullable=False),
    Column("changed", ARRAY(Text()), nullable=False, server_default=text("'{}'")),
    Column("run_id", BigInteger()),
    timestamp_column("at", nullable=False, now=True),
    Column("survivor_id", Text(collation="C")),
    Column("slot", SmallInteger(), nullable=False, server_default=text("0")),
    Column("old", JSONB()),
    PrimaryKeyConstraint("slot", "seq"),
    Index(None, "seq"),
    Index(None, "object", "seq"),
    Index(None, "record_id", postgresql_where=text("old IS NOT NULL")),
    CheckConstraint(
        "op IN ('insert', 'update', 'delete', 'undelete', 'merge', 'reload', 'erase')", name="op"
    ),
    schema=BOOKKEEPING,
    comment="The feed: what changed, in the order of commits.",
    postgresql_partition_by="LIST (slot)",
)
for _slot in range(SLOTS):
    event.listen(
        CHANGE,
        "after_create",
        DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy's own
            f"CREATE TABLE sync.change_{_slot} PARTITION OF sync.change FOR VALUES IN ({_slot})"
        ),
    )
Table(
    "size",
    metadata,
    Column("day", Date(), primary_key=True),
    Column("bytes", BigInteger(), nullable=False),
    schema=BOOKKEEPING,
    comment="The size of the database by day: what its growth is told from.",
)
Table(
    "reject",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("record_id", Text(collation="C"), primary_key=True),
    Column("reason", Text(), nullable=False),
    Column("record", JSON(), nullable=False),
    timestamp_column("system_modstamp"),
    timestamp_column("first_seen", nullable=False, now=True),
    timestamp_column("last_seen", nullable=False, now=True),
    Column("run_id", BigInteger()),
    schema=BOOKKEEPING,
    comment="Records that could not be stored, whole, and why; gone from here once stored.",
)

Table(
    "org",
    metadata,
    Column("single", Boolean(), primary_key=True, server_default=text("true")),
    Column("organization_id", Text(), nullable=False),
    timestamp_column("accepted_at", nullable=False, now=True),
    timestamp_column("replaced_at"),
    CheckConstraint("single", name="single"),
    schema=BOOKKEEPING,
    comment="The one org whose records these are; another one is refused.",
)
Table(
    "field",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("object", Text(), nullable=False),
    Column("field", Text(), nullable=False),
    timestamp_column("at", nullable=False, now=True),
    Column("change", Text(), nullable=False),
    Column("type", Text(), nullable=False),
    Column("size", Text(), nullable=False),
    Column("calculated", Boolean(), nullable=False),
    Column("formula", Text(), nullable=False),
    Column("relationship", Text(), nullable=False),
    Column("targets", ARRAY(Text()), nullable=False),
    Column("replicated", Boolean(), nullable=False),
    Column("own_column", Boolean()),
    Index(None, "object", "field", "id"),
    CheckConstraint(
        "change IN ('known', 'added', 'vanished', 'returned', 'retyped', 'resized', 'formula', 'selected', "
        "'left out', 'refused', 'promoted', 'demoted')",
        name="change",
    ),
    schema=BOOKKEEPING,
    comment="The ledger of the fields of the org: one line per change; the last of a field is its state.",
)
Table(
    "derived",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("column_name", Text(), primary_key=True),
    Column("version", Text(), nullable=False),
    timestamp_column("at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="The version of the computation that filled each derived column; without one it is mixed.",
)
Table(
    "reread",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("record_id", Text(collation="C"), primary_key=True),
    Column("whole", Boolean(), nullable=False),
    timestamp_column("at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="Records to be read again because one that they depend on has changed.",
)
Table(
    "changed_parent",
    metadata,
    Column("child", Text(), primary_key=True),
    Column("lookup", Text(), primary_key=True),
    Column("record_id", Text(collation="C"), primary_key=True),
    Column("whole", Boolean(), nullable=False),
    Column("after_id", Text(collation="C"), nullable=False, server_default=text("''")),
    timestamp_column("at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="Changed records whose children (rows of `child` naming them in `lookup`) are not all in "
    "sync.reread yet: those with an Id after `after_id`.",
)
Table(
    "replicated",
    metadata,
    Column("object", Text(), primary_key=True),
    schema=BOOKKEEPING,
    comment="The objects that are replicated now: what `all objects` means to consumers.",
)
Table(
    "accepted",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("reason", Text(), primary_key=True),
    timestamp_column("at", nullable=False, now=True),
    Column("accepted_by", Text(), nullable=False),
    schema=BOOKKEEPING,
    comment="Reasons of rejected records that an operator accepts: they hold up no pass.",
)
Table(
    "erased",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("object", Text(), nullable=False),
    Column("record_id", Text(collation="C"), nullable=False),
    timestamp_column("at", nullable=False, now=True),
    Column("asked_by", Text(), nullable=False),
    Column("cause_id", Text(collation="C"), nullable=False),
    timestamp_column("lifted_at"),
    Column("lifted_by", Text()),
    Index(None, "record_id", unique=True, postgresql_where=text("lifted_at IS NULL")),
    schema=BOOKKEEPING,
    comment="Records erased on request, and never stored again unless lifted: the proof, never pruned.",
)
Table(
    "incident",
    metadata,
    Column("id", BigInteger(), Identity(always=True), primary_key=True),
    Column("kind", Text(), nullable=False),
    Column("object", Text(), nullable=False),
    Column("what", Text(), nullable=False),
    timestamp_column("opened_at", nullable=False),
    timestamp_column("closed_at"),
    Column("times", Integer(), nullable=False, server_default=text("1")),
    Column("told", Text()),
    timestamp_column("last_told_at"),
    timestamp_column("claimed_until"),
    Index(None, "kind", "object", unique=True, postgresql_where=text("closed_at IS NULL")),
    CheckConstraint("told IN ('open', 'over')", name="told"),
    schema=BOOKKEEPING,
    comment="What needs somebody, or needed: at most one open line per kind and object; and what was told.",
)
Table(
    "replica_schema",
    metadata,
    Column("single", Boolean(), primary_key=True, server_default=text("true")),
    Column("name", Text(), nullable=False),
    CheckConstraint("single", name="single"),
    schema=BOOKKEEPING,
    comment="The schema that holds the replicas, chosen at the first migration.",
)
Table(
    "listing",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("record_id", Text(collation="C"), primary_key=True),
    timestamp_column("system_modstamp", nullable=False),
    prefixes=["UNLOGGED"],
    schema=BOOKKEEPING,
    comment="What a verify of an older release has listed so far; this one has a table for each object.",
)

Table(
    "heroku_connect_id",
    metadata,
    Column("record_id", Text(collation="C"), primary_key=True),
    Column("object", Text(), nullable=False),
    Column("number", Integer(), Identity(), nullable=False),
    Index(None, "object", "number", unique=True),
    schema=BOOKKEEPING,
    comment="The column `id` of views shaped like Heroku Connect's tables: a record keeps its number for "
    "ever.",
)


def listing_table(name: str) -> Table:
    """Return the table that lists an object's records during a verify; `name` is the name of its replica."""
    return Table(
        f"listing_{name}",
        metadata,
        Column("record_id", Text(collation="C"), primary_key=True),
        timestamp_column("system_modstamp", nullable=False),
        prefixes=["UNLOGGED"],
        schema=BOOKKEEPING,
        comment="What a verify of the object has listed so far; empty between two of them.",
    )
