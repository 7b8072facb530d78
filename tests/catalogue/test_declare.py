"""New objects and fields: what the commands write, what they refuse, and that it works without another edit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from migrations import autogenerate, declare
from migrations.declare import declaration, with_field
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.labels import LABELS
from sync.demo import embedded
from sync.errors import SyncError, UsageError
from sync.simulator import Simulator
from sync.simulator.describes import read_describe
from tests.support.checkout import Checkout
from tests.support.world import ROOT

DESCRIBES = ROOT / "tests" / "simulator"
OPPORTUNITY: dict[str, Any] = json.loads((DESCRIBES / "opportunity.json").read_text())
INVOICE: dict[str, Any] = json.loads((DESCRIBES / "invoice.json").read_text())
# Objects that no org has, so that nobody has declared them: an opportunity and an invoice by other names.
WINDFALL = OPPORTUNITY | {"name": "Windfall", "keyPrefix": "9zz"}
RECEIPT: dict[str, Any] = json.loads(
    (DESCRIBES / "invoice.json").read_text().replace("Invoice__c", "Receipt__c").replace('"a0B"', '"9zy"')
)
CONTACT = (ROOT / "sync" / "catalogue" / "objects" / "contact.py").read_text()


@pytest.fixture(autouse=True)
def two_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the commands know accounts and contacts, whatever else a team has declared."""
    monkeypatch.setattr(declare, "CATALOGUE", {name: CATALOGUE[name] for name in ("Account", "Contact")})


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copy of the project in which anything may be changed."""
    return Checkout.at(tmp_path / "project")


@pytest.fixture
def migrated(database: str) -> Engine:
    """The way to a migrated database."""
    return create_engine(database, poolclass=NullPool)


def ask(engine: Engine, statement: str) -> list[Any]:
    """The first column of a query's rows."""
    with engine.begin() as connection:
        return list(connection.execute(text(statement)).scalars())


def columns(engine: Engine, table: str) -> list[str]:
    """The columns of a table or view, in order."""
    return ask(
        engine,
        f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
    )


# ── the text of a declaration ─────────────────────────────────────────────────────────────────────────


def without(describe: dict[str, Any], *names: str) -> dict[str, Any]:
    """The describe without some fields."""
    return describe | {"fields": [field for field in describe["fields"] if field["name"] not in names]}


def lines(source: str) -> list[str]:
    """The fields that a declaration has, as they stand there."""
    return [line.strip().rstrip(",") for line in source.splitlines() if line.strip().startswith("Field(")]


def test_every_replicable_standard_field_is_declared() -> None:
    """All of a describe's standard fields, in its order, but compound ones and those that depend on the reader."""
    source, notes = declaration(OPPORTUNITY)

    left_out = {"LastViewedDate", "LastReferencedDate"}
    expected = [f["name"] for f in OPPORTUNITY["fields"] if not f["custom"] and f["name"] not in left_out]
    assert [line.split('"')[1] for line in lines(source)] == expected
    assert 'Field("Amount", NUMBER)' in lines(source)
    assert 'Field("CloseDate", DATE)' in lines(source)
    assert 'prefix="006"' in source
    assert 'lookups=("account_id", "contact_id",)' in source
    assert notes == []


def test_custom_keys_get_a_column() -> None:
    """Of custom fields, references to replicated objects and external ids are columns that are looked up by."""
    source, _ = declaration(INVOICE)

    custom = [line for line in lines(source) if "__c" in line]
    keys = [
        field["name"]
        for field in INVOICE["fields"]
        if field["custom"]
        and (field.get("externalId") or {"Account", "Contact", "Invoice__c"} & set(field["referenceTo"]))
    ]
    assert [line.split('"')[1] for line in custom] == keys
    assert all(f'"{name.lower()}"' in source for name in keys)


@pytest.mark.parametrize(
    ("describe", "reason"),
    [
        (without(OPPORTUNITY, "SystemModstamp"), "without SystemModstamp nothing tells what has changed"),
        (without(OPPORTUNITY, "IsDeleted"), "without IsDeleted deleted records leave no trace"),
        (OPPORTUNITY | {"keyPrefix": None}, "its Ids have no prefix"),
        (OPPORTUNITY | {"queryable": False}, "queries refuse it"),
    ],
)
def test_what_cannot_be_replicated_is_refused(describe: dict[str, Any], reason: str) -> None:
    """An object that cannot be kept equal is refused with the reason."""
    with pytest.raises(SyncError, match=f"Opportunity cannot be replicated: {reason}"):
        declaration(describe)


def test_what_is_odd_is_left_out_and_named() -> None:
    """Fields of types that nobody knows, and those whose column is taken, are left out and named."""
    strange = {"name": "Shape", "type": "polygon", "custom": False}
    taken = {"name": "DeletedAt", "type": "datetime", "custom": False}
    described = OPPORTUNITY | {"fields": [*OPPORTUNITY["fields"], strange, taken], "replicateable": False}

    source, notes = declaration(described)

    assert "Shape" not in source
    assert "DeletedAt" not in source
    assert notes == [
        "left out Shape: type polygon",
        "left out DeletedAt: its column is taken",
        "Opportunity has no getUpdated and no getDeleted: deletions are found by the nightly verify",
    ]


def test_a_field_goes_to_the_end() -> None:
    """A new field is the last one, and what is imported follows."""
    source = with_field(CONTACT, "Weight__c", "INTEGER", index=True)

    before, after = CONTACT.count("Field("), source.count("Field(")
    assert after == before + 1
    assert source.rindex("Field(") == source.index('Field("Weight__c", INTEGER)')
    assert '"weight__c", )' in source.replace("\n", "")
    [imported] = [line for line in source.splitlines() if line.startswith("from sync.catalogue.mapping")]
    assert "INTEGER" in imported.replace(",", " ").split()


def test_a_field_brings_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label of the describe is added to those of the other fields, in one line."""
    describe = tmp_path / "contact.json"
    field = {"name": "Weight__c", "type": "double", "label": "Weight\n in kg"}
    describe.write_text(json.dumps({"name": "Contact", "fields": [field]}))
    written: dict[Path, str] = {}

    def keep(files: dict[Path, str], _message: str) -> Path:
        written.update(files)
        return ROOT / "migrations" / "versions" / "0099_contact_gets_weight__c.py"

    monkeypatch.setattr(declare, "written_with_migration", keep)

    assert declare.main(["field", "Contact", "Weight__c", "--describe", str(describe)]) == 0

    assert written[LABELS].splitlines()[-1] == "Contact.Weight__c Weight in kg"


def test_a_first_lookup_makes_the_list() -> None:
    """An object that nobody looks up by anything gets the list of its lookups."""
    bare = CONTACT.replace(
        'lookups=("account_id", "email_normalized", "phone_e164", "mobile_phone_e164"),', ""
    )
    assert bare != CONTACT

    assert 'lookups=("weight__c",),' in with_field(bare, "Weight__c", "INTEGER", index=True)


# ── what is refused before anything is written ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("object", "Account"), "Account is in the catalogue: make field OBJECT=Account NAME=… adds a field"),
        (("object", "Drop Table"), "'Drop Table' is no API name"),
        (("object", "Thing", "--describe", "/nowhere.json"), "/nowhere.json is no describe in JSON"),
        (("object", "Thing", "--describe", "{opportunity}"), "describes Opportunity, not Thing"),
        (("field", "Thing", "X__c"), "Thing is not in the catalogue, which has Account, Contact"),
        (("field", "contact", "Email"), "Contact.Email has a column already: email"),
        (("field", "Contact", "X__c", "--describe", "{contact}"), "shows no field X__c: check its API name"),
        (("field", "Contact", "tier__C", "--describe", "{contact}"), "did you mean Tier__c?"),
        (
            ("field", "Contact", "Place__c", "--describe", "{contact}"),
            "is of type location, which has no column",
        ),
        (("object", "Thing", "--describe", "{list}"), "is no describe: it has no list of fields"),
        (
            ("object", "Thing", "--describe", "{nameless}"),
            "has a field without a name and a type: {'type': 'int'}",
        ),
    ],
)
def test_what_is_wrong_is_named(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong name or file ends with an error that says what to do, and nothing is written."""
    contact = [{"name": "Tier__c", "type": "picklist"}, {"name": "Place__c", "type": "location"}]
    files = {
        "contact": {"name": "Contact", "fields": contact},
        "list": [],
        "nameless": {"name": "Thing", "fields": [{"type": "int"}]},
        "opportunity": OPPORTUNITY,
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = {f"{{{name}}}": str(tmp_path / f"{name}.json") for name in files}
    before = set(declare.OBJECTS.iterdir())

    assert declare.main([places.get(argument, argument) for argument in arguments]) == 2

    assert told in capsys.readouterr().err
    assert set(declare.OBJECTS.iterdir()) == before


def test_an_object_that_the_org_does_not_show(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that the org does not know is an error that names what to check."""
    monkeypatch.chdir(tmp_path)
    for name, value in (sim.environment() | {"DATABASE_URL": "postgres:///x"}).items():
        monkeypatch.setenv(name, value)

    assert declare.main(["object", "Nothing__c"]) == 2

    assert (
        "the org shows the integration user no object Nothing__c: check its API name"
        in capsys.readouterr().err
    )


def test_nothing_stays_where_no_migration_can_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the migration cannot be written, the declaration is not left behind."""
    before = set(declare.OBJECTS.iterdir())

    def fail(module: str, *_: str) -> None:
        if module != "ruff":
            raise UsageError("no server")

    monkeypatch.setattr(declare, "run", fail)
    (describe := tmp_path / "windfall.json").write_text(json.dumps(WINDFALL))

    assert declare.main(["object", "Windfall", "--describe", str(describe)]) == 2

    assert "no server" in capsys.readouterr().err
    assert set(declare.OBJECTS.iterdir()) == before


# ── a checkout ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(300)  # a dozen processes, one after the other, on a machine that may be busy
def test_objects_and_fields_need_no_other_edit(
    checkout: Checkout, sim: Simulator, tmp_path: Path, database: str, migrated: Engine
) -> None:
    """Declared by the commands or by a line, migrated, loaded, verified, read, and undone: nothing else is edited.

    One checkout and as few interpreters as can be: each stage is a function below.
    """
    sim.org.add_object(read_describe(WINDFALL))
    account = sim.org.create("Account", {"Name": "Acme"})
    sim.org.create("Windfall", windfall("Big", AccountId=account))
    gone = sim.org.create("Windfall", windfall("Small"))
    sim.org.delete(gone)
    settings = sim.environment() | {"DATABASE_URL": database}
    with hand_granted(migrated):
        before = checkout.files(), columns(migrated, "crm.contact")
        an_object_of_the_org(checkout, settings)
        promoted = a_custom_object_and_its_field(checkout, tmp_path)
        a_line_that_a_person_wrote(checkout)
        for arguments in (("check",), ("format", "--check")):
            checkout.succeed("ruff", *arguments, ".")

        settings["SYNC_OBJECTS"] = "Account,Contact,Windfall"  # the org has no receipts
        verify = ("sync", "verify", "--deep", "all")
        upgrade, check = ("alembic", "upgrade", "head"), ("alembic", "check")
        outputs = checkout.succeed_all(
            upgrade, check, ("sync", "run"), verify, ("sync", "status"), **settings
        )

        assert outputs[2].count("Windfall") == 1
        assert "Windfall: equal" in outputs[3]
        assert "Account, Contact and Windfall hold every change" in outputs[4]
        consumers_read(migrated, gone)
        assert columns(migrated, "crm.receipt__c")[-1] == promoted
        assert f"receipt__c_{promoted}_idx" in ask(migrated, "SELECT indexname FROM pg_indexes")
        assert columns(migrated, "crm.contact") == [*before[1], "nick_name", "nick_name_lower"]
        assert {"nick_name", "nick_name_lower"} <= set(columns(migrated, "salesforce.contact"))
        industry = "SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attname = 'industry'"
        assert set(ask(migrated, industry)) == {"Salesforce field Account.Industry (Line: 100 %): text."}

        made = [name for name in checkout.files() - before[0] if name.startswith("migrations")]
        checkout.succeed("alembic", "downgrade", f"-{len(made)}", **settings)
        nothing_is_left(migrated, before[1])
        checkout.succeed_all(upgrade, check, **settings)
        assert columns(migrated, "crm.contact") == [*before[1], "nick_name", "nick_name_lower"]


def windfall(name: str, **values: object) -> dict[str, object]:
    """The values that a new windfall needs."""
    return {"Name": name, "StageName": "Prospecting", "CloseDate": "2026-12-31", **values}


@contextmanager
def hand_granted(engine: Engine) -> Iterator[None]:
    """A role that somebody has given SELECT on all views of objects."""
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE hand_granted"))
        views = ", ".join(f"crm.{sobject.table}" for sobject in CATALOGUE.values())
        connection.execute(text(f"GRANT SELECT ON {views} TO hand_granted"))
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY hand_granted"))
            connection.execute(text("DROP ROLE hand_granted"))


def an_object_of_the_org(checkout: Checkout, settings: dict[str, str]) -> None:
    """The command writes the declaration, the describe, the migration and the permission set, and says so."""
    before = checkout.files()

    told = checkout.succeed("migrations.declare", "object", "Windfall", **settings)

    assert told.startswith("wrote sync/catalogue/objects/")  # and no line of a log
    written = sorted(checkout.files() - before)
    assert [name for name in written if not name.startswith("migrations")] == [
        "sync/catalogue/objects/windfall.json",
        "sync/catalogue/objects/windfall.py",
    ]
    assert all(f"wrote {name}" in told for name in written)
    permissions = checkout.folder / "docs/salesforce/Customer_Replication.permissionset-meta.xml"
    assert "<object>Windfall</object>" in permissions.read_text()


def a_custom_object_and_its_field(checkout: Checkout, folder: Path) -> str:
    """A custom object's table is named as in Heroku Connect; one of its fields is promoted: the column of it."""
    (describe := folder / "receipt.json").write_text(json.dumps(RECEIPT))
    checkout.succeed("migrations.declare", "object", "Receipt__c", "--describe", str(describe))
    custom = next(f["name"] for f in RECEIPT["fields"] if f["custom"] and f["type"] == "currency")

    # Its describe lies beside the declaration, so that no org is asked.
    told = checkout.succeed("migrations.declare", "field", "Receipt__c", custom, "--index")

    assert f"the next pass fills {custom.lower()} in all records" in told
    return str(custom.lower())


def a_line_that_a_person_wrote(checkout: Checkout) -> None:
    """A line becomes a migration that adds the column; a label that a person wrote becomes a comment."""
    catalogue = checkout.folder / "sync" / "catalogue" / "objects" / "contact.py"
    last = '        Field("IndividualId", REF),\n'
    line = '        Field("NickName", TEXT, derived=(Derived("nick_name_lower", normalise_email),)),\n'
    assert catalogue.read_text().count(last) == 1
    catalogue.write_text(catalogue.read_text().replace(last, last + line))
    labels = catalogue.parent / "labels.txt"
    labels.write_text(labels.read_text().replace("Account.Industry Industry", "Account.Industry Line: 100 %"))
    before = checkout.files()

    made = checkout.succeed("migrations.autogenerate", "contact gets a", "nick name")

    [written] = checkout.files() - before
    assert written.endswith("_contact_gets_a_nick_name.py")
    assert written in made


def consumers_read(engine: Engine, gone: str) -> None:
    """What consumers ask knows the new object, with its tombstone."""
    assert ask(engine, "SELECT name FROM crm.windfall WHERE account_id IS NOT NULL") == ["Big"]
    assert ask(engine, "SELECT rows FROM crm.freshness WHERE object = 'Windfall'") == [1]
    assert ask(engine, "SELECT tombstones FROM crm.freshness WHERE object = 'Windfall'") == [1]
    assert ask(engine, "SELECT crm.resolve_id(id) = id FROM crm.windfall") == [True]
    assert ask(engine, f"SELECT crm.resolve_id('{gone}')") == [None]
    assert "master_record_id" not in columns(engine, "salesforce.windfall")
    for view in ("crm.windfall", "crm.receipt__c"):
        assert ask(engine, f"SELECT has_table_privilege('hand_granted', '{view}', 'SELECT')") == [True]
    assert ask(
        engine, "SELECT col_description('crm.windfall'::regclass, 3), 1 FROM crm.freshness LIMIT 1"
    ) == ["Salesforce field Windfall.IsPrivate (Private): yes (true) or no (false)."]


def nothing_is_left(engine: Engine, contact: list[str]) -> None:
    """Undone, the migrations leave no view, no column, and no mention in what speaks of all objects."""
    left = ask(engine, "SELECT viewname FROM pg_views WHERE schemaname = 'crm'")
    assert not {"windfall", "receipt__c"} & set(left)
    assert ask(engine, "SELECT crm.resolve_id('0015g0000000001')") == [None]
    assert "Windfall" not in ask(engine, "SELECT pg_get_viewdef('crm.freshness'::regclass)")[0]
    assert columns(engine, "crm.contact") == contact
    assert not {"nick_name", "nick_name_lower"} & set(columns(engine, "salesforce.contact"))


def test_nothing_new_writes_nothing(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for a migration where none is needed, the command says so and leaves no empty file."""
    checkout = Checkout.at(tmp_path / "project", "migrations")
    before = checkout.files()
    monkeypatch.setattr(autogenerate, "ROOT", checkout.folder)
    monkeypatch.setattr(embedded, "postgres", lambda: nullcontext(database))  # migrated already

    assert autogenerate.main(["nothing"]) == 0

    made = "the migrations already make what sync/catalogue/objects and sync/postgres/tables.py say\n"
    assert capsys.readouterr().out == made
    assert checkout.files() == before


def test_migration_needs_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A migration without a name is refused before anything is started."""
    assert autogenerate.main([" "]) == 2
    assert capsys.readouterr().err == 'say what changes: make migration MESSAGE="contact gets a nickname"\n'
