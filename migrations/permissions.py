"""The permission set of the integration user as Salesforce metadata, from the catalogue.

    python -m migrations.permissions
    python -m migrations.permissions --describe account.json --describe contact.json --output FILE

`make permission-set` writes the first: the fields that every org has. The second writes it for one org, from
describes that an administrator saved: with the fields of the org's features, and with custom fields.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import SObject, sql_name
from sync.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = ROOT / "sync" / "catalogue" / "objects"
NAME = "Customer_Replication"
SHIPPED = ROOT / "docs" / "salesforce" / f"{NAME}.permissionset-meta.xml"
ALL = "all"

# Account and Contact have no saved describe: what a describe says of their fields, by name.
# Without field-level security in a describe (`permissionable`): a permission set that names one is refused.
NOT_PERMISSIONABLE = frozenset(
    {
        *("Id", "IsDeleted", "MasterRecordId", "RecordTypeId", "OwnerId", "CreatedDate", "CreatedById"),
        *("LastModifiedDate", "LastModifiedById", "SystemModstamp", "LastActivityDate", "CurrencyIsoCode"),
        *("Name", "FirstName", "LastName", "MiddleName", "Suffix", "Salutation", "PhotoUrl", "IndividualId"),
        *("IsPartner", "IsCustomerPortal", "IsPersonAccount", "PersonContactId", "JigsawCompanyId"),
        *("ChannelProgramName", "ChannelProgramLevelName", "LastCURequestDate", "LastCUUpdateDate"),
        *("EmailBouncedReason", "EmailBouncedDate", "IsEmailBounced", "JigsawContactId"),
    }
)
# Of features that an org may lack: a permission set that names a missing field is refused.
OF_SOME_ORGS = frozenset(
    {
        *("Jigsaw", "CleanStatus", "DunsNumber", "Tradestyle", "NaicsCode", "NaicsDesc", "YearStarted"),
        *("DandbCompanyId", "OperatingHoursId", "IsBuyer", "IsPriorityRecord", "CanAllowPortalSelfReg"),
        *("Pronouns", "GenderIdentity", "ContactSource", "TitleType", "DepartmentGroup", "BuyerAttributes"),
        *("FirstCallDateTime", "FirstEmailDateTime"),
    }
)
# Fields of person accounts show where the contact's own fields do: they have no permissions of their own.
OF_PERSONS = re.compile(r"Person[A-Z]\w*|\w+__pc")
# Permissions are given to an address, not to its parts.
ADDRESS_PART = re.compile(
    r"(?P<address>Billing|Shipping|Mailing|Other)"
    r"(Street|City|State|PostalCode|Country|StateCode|CountryCode|Latitude|Longitude|GeocodeAccuracy)"
)
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<PermissionSet xmlns="http://soap.sforce.com/2006/04/metadata">
    <description>{description}</description>
"""
FIELD = """    <fieldPermissions>
        <editable>false</editable>
        <field>{name}</field>
        <readable>true</readable>
    </fieldPermissions>
"""
OBJECT = """    <objectPermissions>
        <allowCreate>false</allowCreate>
        <allowDelete>false</allowDelete>
        <allowEdit>false</allowEdit>
        <allowRead>true</allowRead>
        <modifyAllRecords>false</modifyAllRecords>
        <object>{name}</object>
        <viewAllRecords>true</viewAllRecords>
    </objectPermissions>
"""
LABEL = """    <hasActivationRequired>false</hasActivationRequired>
    <label>Customer Replication</label>
"""
FOOT = """    <userPermissions>
        <enabled>true</enabled>
        <name>ApiEnabled</name>
    </userPermissions>
</PermissionSet>
"""
DESCRIPTION = "Reads all records of {objects}, and the fields that the worker copies. Changes nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    if bool(given.describe) != (given.output is not None):
        sys.stderr.write(f"--describe and --output belong together: without them {SHIPPED.name} is written\n")
        return 2
    if given.custom_fields and not given.describe:
        sys.stderr.write("--custom-fields needs --describe: each org has its own custom fields\n")
        return 2
    try:
        text = for_org(given.describe, given.custom_fields) if given.describe else permission_set()
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    target = given.output or SHIPPED
    write(target, text)
    sys.stdout.write(f"wrote {target.relative_to(ROOT) if target.is_relative_to(ROOT) else target}\n")
    return 0


def refresh() -> bool:
    """Write the shipped permission set again; return whether it changed."""
    text = permission_set()
    if SHIPPED.exists() and SHIPPED.read_text() == text:
        return False
    write(SHIPPED, text)
    return True


def write(target: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m migrations.permissions", description=(__doc__ or "").splitlines()[0]
    )
    found.add_argument(
        "--describe",
        metavar="FILE",
        type=Path,
        action="append",
        help="an administrator's describe of an object as JSON; may be repeated",
    )
    found.add_argument(
        "--custom-fields",
        metavar="NAMES",
        type=lambda text: frozenset(filter(None, text.split(","))),
        default=frozenset(),
        help="custom fields of the describes, comma-separated, or all",
    )
    found.add_argument("--output", metavar="FILE", type=Path, help="where the permission set is written")
    return found


# ── the fields ────────────────────────────────────────────────────────────────────────────────────────


def permission_set() -> str:
    """Return the permission set for the fields of the catalogue that every org has."""
    return render({sobject.name: fields_of_every_org(sobject) for sobject in CATALOGUE.values()})


def for_org(files: Iterable[Path], custom: Collection[str] = ()) -> str:
    """Return the permission set for one org.

    `files` are describes as JSON, `custom` the API names of the custom fields to add, or "all". Raises
    UsageError for a file that is no describe of an object of the catalogue, and for a custom field that no
    describe shows.
    """
    found: dict[str, set[str]] = {}
    shown: set[str] = set()
    for file in files:
        describe = read_describe(file)
        sobject = CATALOGUE[describe["name"]]
        shown |= {str(raw["name"]) for raw in describe["fields"]}
        found[sobject.name] = fields_of_describe(sobject, describe, custom)
    if unknown := set(custom) - shown - {ALL}:
        raise UsageError(f"the describes show no field {', '.join(sorted(unknown))}: check the API names")
    return render(found)


def read_describe(file: Path) -> Mapping[str, Any]:
    """Return the describe in a file: Salesforce's answer, or what `sf sobject describe --json` prints."""
    try:
        body = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no describe in JSON: {error}") from None
    body = body.get("result", body) if isinstance(body, dict) else {}
    fields = body.get("fields")
    if not isinstance(fields, list) or not all(isinstance(raw, dict) and "name" in raw for raw in fields):
        raise UsageError(f"{file} is no describe: it has no list of fields")
    if body.get("name") not in CATALOGUE:
        raise UsageError(f"{file} describes {body.get('name')}: the catalogue has {', '.join(CATALOGUE)}")
    return body


def fields_of_every_org(sobject: SObject) -> set[str]:
    """Return the names for `fieldPermissions` of an object's fields that every org has."""
    saved = OBJECTS / f"{sql_name(sobject.name)}.json"
    if saved.exists():
        return fields_of_describe(sobject, read_describe(saved))
    names: set[str] = set()
    for name in (field.name for field in sobject.fields):
        if name not in NOT_PERMISSIONABLE | OF_SOME_ORGS and not OF_PERSONS.fullmatch(name):
            part = ADDRESS_PART.fullmatch(name)
            names.add(f"{part['address']}Address" if part else name)
    return names


def fields_of_describe(
    sobject: SObject, describe: Mapping[str, Any], custom: Collection[str] = ()
) -> set[str]:
    """Return the names for `fieldPermissions` of an object's mapped fields, and of some custom ones."""
    mapped = {field.name for field in sobject.fields}
    addresses = {raw["name"] for raw in describe["fields"] if raw.get("type") in ("address", "location")}
    names: set[str] = set()
    for raw in describe["fields"]:
        name = str(raw["name"])
        wanted = name in mapped or name in custom or (ALL in custom and bool(raw.get("custom")))
        if wanted and permissionable(raw) and not OF_PERSONS.fullmatch(name):
            whole = raw.get("compoundFieldName")
            names.add(str(whole) if whole in addresses else name)
    return names


def permissionable(raw: Mapping[str, Any]) -> bool:
    """Return whether a described field has field-level security."""
    if "permissionable" in raw:
        return bool(raw["permissionable"])
    return bool(raw.get("nillable")) and bool(raw.get("custom") or raw.get("updateable"))


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────


def render(fields: Mapping[str, Collection[str]]) -> str:
    """Return the metadata file: read access to these fields of these objects, and to all their records."""
    return "".join(parts(fields))


def parts(fields: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield the elements in the order in which Salesforce writes them: by name."""
    yield HEAD.format(description=escape(DESCRIPTION.format(objects=", ".join(sorted(fields)))))
    for full in sorted(f"{sobject}.{name}" for sobject, names in fields.items() for name in names):
        yield FIELD.format(name=escape(full))
    yield LABEL
    for sobject in sorted(fields):
        yield OBJECT.format(name=escape(sobject))
    yield FOOT


if __name__ == "__main__":
    sys.exit(main())
