"""docs/leaving-heroku-connect.md, step by step, in a database that Heroku Connect uses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sync.demo import embedded
from sync.simulator import Simulator
from tests.project.pages import blocks, commands, sync_arguments
from tests.project.test_examples import run, statements
from tests.support.consuming import role
from tests.support.world import LONG_AGO, World

PAGE = "docs/leaving-heroku-connect.md"
SYSTEM = {
    "sfid": "varchar(18) COLLATE ucs_basic UNIQUE",
    "isdeleted": "boolean",
    "systemmodstamp": "timestamp",
    "createddate": "timestamp",
    "_hc_lastop": "varchar(32)",
    "_hc_err": "text",
}
# Tables as Heroku Connect makes them: lower-case API names, and types of its own.
THEIRS = {
    "account": {"name": "varchar(255)", "annualrevenue": "double precision", "numberofemployees": "integer"},
    "contact": {
        "lastname": "varchar(80)",
        "accountid": "varchar(18)",
        "phone": "varchar(40)",
        "birthdate": "date",
        "mailinglatitude": "double precision",
        "tier__c": "varchar(255)",
        "spend__c": "double precision",
        "interests__c": "varchar(4099)",
        "last_visit__c": "timestamp",
        "vip__c": "boolean",
    },
}
ANN = {
    "LastName": "Ann",
    "Phone": "+1 415",
    "Birthdate": "1980-02-29",
    "MailingLatitude": "48.25",
    "Tier__c": "Gold",
    "Spend__c": "12.5",
    "Interests__c": "Music;Art",
    "Last_Visit__c": "2026-01-01T10:00:00.000+0000",
    "VIP__c": True,
}


def execute(engine: Engine, statement: str, **values: object) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []


def make_theirs(engine: Engine) -> None:
    """The schema of Heroku Connect, without records."""
    execute(engine, "CREATE SCHEMA salesforce")
    execute(engine, "CREATE TABLE salesforce._hcmeta (id serial PRIMARY KEY, hcver integer)")
    for table, columns in THEIRS.items():
        listed = ", ".join(f"{name} {kind}" for name, kind in {**columns, **SYSTEM}.items())
        execute(engine, f"CREATE TABLE salesforce.{table} (id serial PRIMARY KEY, {listed})")


def fill_theirs(world: World) -> None:
    """What Heroku Connect reads of the same org."""
    for name, table in (("Account", "account"), ("Contact", "contact")):
        for record in world.org.records(name):
            values = {key.lower(): value for key, value in record.items() if key.lower() in THEIRS[table]}
            values |= {key.lower(): record[key] for key in ("IsDeleted", "SystemModstamp", "CreatedDate")}
            values |= {"sfid": record["Id"], "_hc_lastop": "SYNCED"}
            columns, places = ", ".join(values), ", ".join(f":{key}" for key in values)
            world.sql(f"INSERT INTO salesforce.{table} ({columns}) VALUES ({places})", **values)


def test_the_page_leads_from_heroku_connect_to_the_views(
    empty_database: str, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed in order, the page's commands make equal views, its query lists what differs, and readers go on."""
    owner = create_engine(empty_database, poolclass=NullPool)
    make_theirs(owner)
    embedded.migrate(owner, replicas="crm_replica")
    with World(sim, empty_database, SYNC_REPLICA_SCHEMA="crm_replica") as world, role(owner) as reader:
        acme = world.org.create("Account", {"Name": "Acme", "AnnualRevenue": "1.5"}, stamp=LONG_AGO)
        people: list[dict[str, object]] = [
            ANN | {"AccountId": acme},
            {"LastName": "Bob"},
            {"LastName": "Cid"},
        ]
        ann, bob, cid = world.org.create_many("Contact", people, stamp=LONG_AGO)
        world.run()
        fill_theirs(world)
        before = dict(execute(owner, "SELECT sfid, id FROM salesforce.contact"))
        differences: list[list[Any]] = []

        for block in blocks(PAGE):
            if block.language == "sh":
                for words in commands(block):
                    if arguments := sync_arguments(words):
                        assert run(world, arguments, monkeypatch) == 0, words
            for statement in statements(block) if block.language == "sql" else ():
                if not statement.startswith("SELECT"):
                    execute(owner, re.sub(r"\bbilling\b", reader.name, statement))
                    continue
                differences += [execute(owner, statement)]
                assert execute(owner, statement.replace(".contact", ".account")) == []
                execute(owner, "UPDATE salesforce.contact SET phone = '0' WHERE sfid = :id", id=ann)
                execute(owner, "DELETE FROM salesforce.contact WHERE sfid = :id", id=bob)
                execute(owner, "INSERT INTO salesforce.contact (sfid) VALUES ('003000000000001AAA')")
                differences += [execute(owner, statement)]

        assert differences == [
            [],
            [
                ("003000000000001AAA", "only in Heroku Connect", None, None),
                (ann, "phone", "0", "+1 415"),
                (bob, "only here", None, None),
            ],
        ]
        read = "SELECT id, lastname, spend__c, interests__c FROM salesforce.contact WHERE sfid = :id"
        assert reader.ask(read, id=ann) == [(before[ann], "Ann", 12.5, "Music;Art")]
        assert dict(execute(owner, "SELECT sfid, id FROM salesforce.contact")) == before
        gone = "SELECT to_regnamespace('salesforce_before'), to_regnamespace('heroku_connect')"
        assert execute(owner, gone) == [(None, None)]
        with pytest.raises(Exception, match="cannot insert into view"):
            execute(owner, "INSERT INTO salesforce.contact (lastname) VALUES ('x')")
        assert cid in before
