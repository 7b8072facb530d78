"""New objects and fields of the catalogue, written from an org's describe, each with its migration.

    python -m migrations.declare object Opportunity [--describe FILE]
    python -m migrations.declare field Contact Customer_Number__c [--index] [--describe FILE]

`make object NAME=…` and `make field OBJECT=… NAME=…` call it. The describe is the org's in the settings,
or from FILE: the body of GET /services/data/vNN.0/sobjects/<name>/describe.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.labels import LABELS, label
from sync.catalogue.mapping import (
    OWN_COLUMNS,
    UNREPLICATED_TYPES,
    DescribedField,
    Field,
    Kind,
    SObject,
    api_name,
    sql_name,
)
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import load_settings
from sync.errors import SalesforceError, SyncError, UsageError
from sync.logs import logger
from sync.salesforce.session.session import Session

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = ROOT / "sync" / "catalogue" / "objects"
# The names that declarations use for kinds. Ids that are not the record's own are kept as text.
KINDS = {
    **dict.fromkeys(Kind.TEXT.value, "TEXT"),
    "reference": "REF",
    "multipicklist": "PICKS",
    "boolean": "FLAG",
    "int": "INTEGER",
    "long": "INTEGER",
    **dict.fromkeys(("double", "currency", "percent"), "NUMBER"),
    "date": "DATE",
    "datetime": "TIME",
}
BY_NAME = {
    "ID": Kind.ID,
    "REF": Kind.REFERENCE,
    "TEXT": Kind.TEXT,
    "PICKS": Kind.MULTIPICKLIST,
    "FLAG": Kind.BOOLEAN,
    "INTEGER": Kind.INTEGER,
    "NUMBER": Kind.NUMBER,
    "DATE": Kind.DATE,
    "TIME": Kind.DATETIME,
}
# Their value depends on who asks.
OF_THE_READER = frozenset({"LastViewedDate", "LastReferencedDate"})
# What is kept of a describe: what replication and the simulator know an object by.
OBJECT_KEYS = (
    *("name", "label", "labelPlural", "keyPrefix", "custom", "queryable", "replicateable", "retrieveable"),
    "mergeable",
)
FIELD_KEYS = (
    *(
        "name",
        "label",
        "type",
        "soapType",
        "length",
        "precision",
        "scale",
        "digits",
        "nillable",
        "calculated",
    ),
    *("calculatedFormula", "custom", "autoNumber", "externalId", "unique", "idLookup", "referenceTo"),
    *("relationshipName", "compoundFieldName", "cascadeDelete", "updateable", "createable", "filterable"),
    *("sortable", "groupable", "defaultedOnCreate", "permissionable"),
)
# A migration brings the permission set with it.
DEPLOY = "next: deploy the permission set to the org, so that the user may read it: docs/salesforce-setup.md"
PICKLIST_KEYS = ("value", "label", "active", "defaultValue")
TEMPLATE = '''"""{name}: the fields that an org's describe shows, in its order. New lines go to the end."""

from __future__ import annotations

from sync.catalogue.mapping import {imports}

OBJECT = SObject(
    name="{name}",
    prefix="{prefix}",
    lookups=({lookups}),
    fields=(
{fields}
    ),
)
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line; its exit code."""
    given = parser().parse_args(arguments)
    try:
        if given.what == "object":
            lines = add_object(api_name(given.name), given.describe)
        else:
            lines = add_field(known_object(given.object), api_name(given.name), given.describe, given.index)
    except (SyncError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, SyncError) else 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """What may be typed."""
    found = argparse.ArgumentParser(prog="python -m migrations.declare", description=__doc__.split("\n")[0])
    commands = found.add_subparsers(dest="what", required=True, metavar="object|field")
    new_object = commands.add_parser("object", help="declare an object, with its migration")
    new_field = commands.add_parser("field", help="give a field a column of its own, with its migration")
    new_object.add_argument("name", help="API name: Opportunity, Invoice__c, acme__Thing__c")
    new_field.add_argument("object", help="API name of an object of the catalogue")
    new_field.add_argument("name", help="API name of the field: Customer_Number__c, NumberOfEmployees")
    new_field.add_argument("--index", action="store_true", help="consumers look records up by it")
    for command in (new_object, new_field):
        command.add_argument(
            "--describe", metavar="FILE", type=Path, help="a describe as JSON, instead of the org's"
        )
    return found


# ── an object ─────────────────────────────────────────────────────────────────────────────────────────


def add_object(name: str, file: Path | None) -> list[str]:
    """Write an object's declaration, its describe and its migration; what was written, and what to do next.

    Nothing is left behind where one of them cannot be written.
    """
    if name in CATALOGUE:
        raise UsageError(f"{name} is in the catalogue: make field OBJECT={name} NAME=… adds a field to it")
    describe = read_describe(name, file)
    source, notes = declaration(describe)
    module = OBJECTS / f"{sql_name(name)}.py"
    if module.exists():
        raise UsageError(f"{module.relative_to(ROOT)} is there already: remove it, or edit it")
    saved = module.with_suffix(".json")
    migration = written_with_migration({module: source, saved: as_json(trimmed(describe))}, name)
    return [
        *(f"wrote {path.relative_to(ROOT)}" for path in (module, saved, migration)),
        *notes,
        DEPLOY,
        "next: alembic upgrade head (a deploy does it); the next pass loads the object, unless SYNC_OBJECTS "
        "leaves it out",
    ]


def declaration(describe: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The module that declares an object, and what a person should know of it.

    SyncError with the reason where the object cannot be replicated.
    """
    name, prefix = str(describe["name"]), describe.get("keyPrefix")
    if not describe.get("queryable", True):
        raise UsageError(f"{name} cannot be replicated: queries refuse it")
    if not prefix:
        raise UsageError(f"{name} cannot be replicated: its Ids have no prefix that tells its records")
    notes: list[str] = []
    lines: dict[str, str] = {}
    lookups: list[str] = []
    for raw in describe["fields"]:
        field = DescribedField.of(raw)
        own = field.custom and not is_key(raw, name)  # all of them are in the column `custom`
        if own or field.type in UNREPLICATED_TYPES or field.name in OF_THE_READER:
            continue
        kind = "ID" if field.name == "Id" else KINDS.get(field.type)
        column = sql_name(field.name)
        if kind is None or column in OWN_COLUMNS or column in map(sql_name, lines):
            notes.append(f"left out {field.name}: {'its column is taken' if kind else f'type {field.type}'}")
            continue
        lines[field.name] = kind
        if is_key(raw, name):
            lookups.append(column)
    fields = [Field(field, BY_NAME[kind]) for field, kind in lines.items()]
    SObject(name, prefix, tuple(fields), tuple(lookups))  # refuses what cannot be replicated
    if not describe.get("replicateable", True):
        notes.append(f"{name} has no getUpdated and no getDeleted: deletions are found by the nightly verify")
    used = sorted({*lines.values(), "Field", "SObject"})
    source = TEMPLATE.format(
        name=name,
        prefix=prefix,
        imports=", ".join(used),
        lookups="".join(f'"{column}", ' for column in lookups).rstrip(),
        fields="\n".join(f'        Field("{field}", {kind}),' for field, kind in lines.items()),
    )
    return source, notes


def is_key(raw: Mapping[str, Any], name: str) -> bool:
    """Whether records are looked up by a field: a reference to a replicated object, or an external Id."""
    if raw.get("name") == "MasterRecordId":
        return False  # of deleted records alone
    targets = set(raw.get("referenceTo") or ())
    return bool(raw.get("externalId")) or bool(targets & {*CATALOGUE, name})


# ── a field ───────────────────────────────────────────────────────────────────────────────────────────


def add_field(sobject: SObject, name: str, file: Path | None, index: bool) -> list[str]:
    """Write a field's line and its migration; what was written, and what to do next."""
    if name in {field.name for field in sobject.fields}:
        raise UsageError(f"{sobject.name}.{name} has a column already: {sql_name(name)}")
    module = OBJECTS / f"{sql_name(sobject.name)}.py"
    saved = module.with_suffix(".json")
    raw = described_field(sobject.name, name, file, saved)
    kind = KINDS.get(str(raw["type"]))
    if kind is None or raw["type"] in UNREPLICATED_TYPES:
        raise UsageError(f"{sobject.name}.{name} is of type {raw['type']}, which has no column")
    files = {module: with_field(module.read_text(), name, kind, index=index)}
    if (called := " ".join(str(raw.get("label") or "").split())) and not label(sobject.name, name):
        files[LABELS] = f"{LABELS.read_text()}{sobject.name}.{name} {called}\n"
    migration = written_with_migration(files, f"{sobject.name} gets {name}")
    return [
        *(f"wrote {path.relative_to(ROOT)}" for path in (*files, migration)),
        DEPLOY,
        f"next: alembic upgrade head (a deploy does it); the next pass fills {sql_name(name)} in all records",
    ]


def described_field(sobject: str, name: str, file: Path | None, saved: Path) -> Mapping[str, Any]:
    """A field's entry: of the file given, of the describe beside the declaration, or of the org's."""
    if file is None and saved.exists():
        for raw in read_describe(sobject, saved)["fields"]:
            if raw.get("name") == name:
                return dict(raw)
    describe = read_describe(sobject, file)
    for raw in describe["fields"]:
        if raw.get("name") == name:
            return dict(raw)
    near = [raw["name"] for raw in describe["fields"] if raw["name"].lower() == name.lower()]
    hint = f"; did you mean {near[0]}?" if near else ": check its API name, and the user's access to it"
    raise UsageError(f"the describe of {sobject} shows no field {name}{hint}")


def with_field(source: str, name: str, kind: str, *, index: bool) -> str:
    """A declaration with one more field at its end, and (`index`) one more column to look up by."""
    tree = ast.parse(source)
    [call] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "SObject"
    ]
    parts = {keyword.arg: keyword.value for keyword in call.keywords}
    [imported] = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "sync.catalogue.mapping"
    ]
    names = sorted({kind, *(alias.name for alias in imported.names)})
    edits = [
        (before_end(source, parts["fields"]), f'Field("{name}", {kind}),\n    '),
        (span(source, imported), f"from sync.catalogue.mapping import {', '.join(names)}"),
    ]
    column = sql_name(name)
    if index and "lookups" in parts:
        comma = "" if source[: before_end(source, parts["lookups"])[0]].rstrip()[-1] in ",(" else ", "
        edits.append((before_end(source, parts["lookups"]), f'{comma}"{column}", '))
    elif index:
        start = span(source, next(k for k in call.keywords if k.arg == "fields"))[0]
        edits.append(((start, start), f'lookups=("{column}",),\n    '))
    for (start, end), text in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    return source


def span(source: str, node: ast.stmt | ast.expr | ast.keyword) -> tuple[int, int]:
    """Where a node begins and ends in its source, in characters."""
    lines = source.splitlines(keepends=True)

    def place(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)


def before_end(source: str, node: ast.expr) -> tuple[int, int]:
    """The place before the closing bracket of a tuple."""
    end = span(source, node)[1] - 1
    return end, end


# ── describes ─────────────────────────────────────────────────────────────────────────────────────────


def known_object(name: str) -> SObject:
    """The object of the catalogue with this name, whatever its case."""
    for known, sobject in CATALOGUE.items():
        if known.lower() == name.lower():
            return sobject
    raise UsageError(
        f"{name} is not in the catalogue, which has {', '.join(CATALOGUE)}: make object NAME={name}"
    )


def read_describe(name: str, file: Path | None) -> Mapping[str, Any]:
    """An object's describe, from a file or from the org in the settings; UsageError for what is none."""
    where = f"{file}" if file is not None else "the answer"
    try:
        describe = json.loads(file.read_text()) if file is not None else asked(name)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{where} is no describe in JSON: {error}") from None
    if not isinstance(describe, dict) or not isinstance(describe.get("fields"), list):
        raise UsageError(f"{where} is no describe: it has no list of fields")
    if describe.get("name") != name:
        raise UsageError(
            f"{where} describes {describe.get('name')}, not {name}: names are told apart by case"
        )
    if wrong := [raw for raw in describe["fields"] if not is_field(raw)]:
        raise UsageError(f"{where} has a field without a name and a type: {str(wrong[0])[:100]}")
    return describe


def is_field(raw: object) -> bool:
    """Whether an entry of a describe has a field's name and type."""
    try:
        DescribedField.of(raw if isinstance(raw, Mapping) else {})
    except ValueError:
        return False
    return True


def asked(name: str) -> Any:
    """The describe that the org in the settings answers."""
    settings = load_settings(OBJECT_CHOICES)
    logger.setup("warning", settings.log_format, settings.secrets, settings.dyno)
    session = Session(settings)
    path = f"/services/data/v{session.version}/sobjects/{name}/describe"
    try:
        return session.resource("GET", path).body
    except SalesforceError as error:
        if error.status != 404 and error.code not in ("NOT_FOUND", "INVALID_TYPE"):
            raise
        raise UsageError(
            f"the org shows the integration user no object {name}: check its API name (custom ones end in "
            "__c), and grant read access to it in the user's permission set"
        ) from None


def trimmed(describe: Mapping[str, Any]) -> dict[str, Any]:
    """A describe without what nobody needs of it: layouts, URLs, labels of labels."""
    kept = {key: describe[key] for key in OBJECT_KEYS if key in describe}
    relations = [each for each in describe.get("childRelationships") or () if each.get("cascadeDelete")]
    if relations:
        kept["childRelationships"] = [
            {key: each.get(key) for key in ("childSObject", "field", "cascadeDelete")} for each in relations
        ]
    kept["fields"] = [dict(trimmed_field(raw)) for raw in describe["fields"]]
    return kept


def trimmed_field(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a field that are kept: those that say something."""
    for key in FIELD_KEYS:
        if raw.get(key) not in (None, "", [], {}):
            yield key, raw[key]
    if values := raw.get("picklistValues"):
        yield "picklistValues", [{key: each.get(key) for key in PICKLIST_KEYS} for each in values]


def as_json(describe: Mapping[str, Any]) -> str:
    """A describe as a file: a line for each field."""
    lines = [json.dumps(field, ensure_ascii=False) for field in describe["fields"]]
    head = json.dumps({key: value for key, value in describe.items() if key != "fields"}, ensure_ascii=False)
    return head[:-1] + ', "fields": [\n' + ",\n".join(lines) + "\n]}\n"


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────


def written_with_migration(files: Mapping[Path, str], message: str) -> Path:
    """Write files, then the migration that they call for; all are as before where there is none."""
    before: dict[Path, str | None] = {path: path.read_text() if path.exists() else None for path in files}
    migrations = set((ROOT / "migrations" / "versions").glob("*.py"))
    try:
        for path, text in files.items():
            path.write_text(text)
        tidy([path for path in files if path.suffix == ".py"])
        run("migrations.autogenerate", message)
        [migration] = set((ROOT / "migrations" / "versions").glob("*.py")) - migrations
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(old)
        raise
    return migration


def tidy(paths: Collection[Path]) -> None:
    """Format modules as `make format` does."""
    for arguments in (("check", "--fix", "--quiet"), ("format", "--quiet")):
        run("ruff", *arguments, *map(str, paths))


def run(module: str, *arguments: str) -> None:
    """Run a Python module in a process of its own, which imports the catalogue as it is now."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SyncError(f"{module} failed: {(done.stderr or done.stdout).strip()[-1000:]}")


if __name__ == "__main__":
    sys.exit(main())
