"""The tables of schema `sync` behind what consumers write, which they do by functions of schema `crm`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Identity, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY

from sync.postgres.bookkeeping import BOOKKEEPING, metadata, timestamp_column

Table(
    "consumer",
    metadata,
    Column("role", Text(), primary_key=True),
    Column("name", Text(), primary_key=True),
    Column("objects", ARRAY(Text())),
    Column("epoch", Text(), nullable=False),
    Column("seq", BigInteger(), nullable=False),
    Column("told_epoch", Text()),
    Column("told_seq", BigInteger()),
    timestamp_column("since", nullable=False, now=True),
    timestamp_column("moved_at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="Named consumers of the feed and how far they are: only consumers write here, the worker never.",
)
Table(
    "old_values",
    metadata,
    Column("role", Text(), primary_key=True),
    timestamp_column("at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="Roles that may see values before a change: without one the feed keeps none.",
)
Table(
    "request",
    metadata,
    Column("number", BigInteger(), Identity(always=True), primary_key=True),
    Column("record_id", Text(collation="C"), nullable=False),
    Column("object", Text(), nullable=False),
    Column("role", Text(), nullable=False),
    Column("xid", BigInteger(), nullable=False),
    timestamp_column("at", nullable=False, now=True),
    Index(None, "record_id"),
    schema=BOOKKEEPING,
    comment="Records that consumers have asked for, until they are read: consumers add lines, the worker "
    "removes them, and no line is ever changed.",
)
Table(
    "requester",
    metadata,
    Column("role", Text(), primary_key=True),
    timestamp_column("since", nullable=False),
    Column("requests", Integer(), nullable=False),
    schema=BOOKKEEPING,
    comment="How many requests each role has made in its present hour: only consumers write here.",
)
Table(
    "requestable",
    metadata,
    Column("object", Text(), primary_key=True),
    Column("prefix", Text(collation="C"), nullable=False),
    Column("per_hour", Integer(), nullable=False),
    schema=BOOKKEEPING,
    comment="The objects whose records may be asked for, how their Ids begin, and how often a role may ask.",
)
Table(
    "answer",
    metadata,
    Column("record_id", Text(collation="C"), primary_key=True),
    Column("taken", BigInteger(), nullable=False),
    Column("answered", BigInteger(), nullable=False, server_default=text("0")),
    Column("found", Boolean()),
    timestamp_column("at", nullable=False, now=True),
    schema=BOOKKEEPING,
    comment="Through which request a record is being read, and was read: only the worker writes here.",
)
