"""The permission set of the integration user: what it grants, and that it follows the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from migrations import permissions
from migrations.permissions import ADDRESS_PART, OF_PERSONS, fields_of_every_org
from sync.catalogue.catalogue import CATALOGUE
from sync.simulator import Simulator
from sync.simulator.objects import describe

SPACE = "{http://soap.sforce.com/2006/04/metadata}"


def granted(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314  written by this project


def values(root: ElementTree.Element, element: str, name: str) -> list[str]:
    """The texts of one part of all elements of a name, in order."""
    return [str(each.findtext(SPACE + name)) for each in root.findall(SPACE + element)]


def describe_of(sim: Simulator, name: str) -> dict[str, Any]:
    """An object's describe as an administrator gets it."""
    sobject = sim.org.schema.visible_object(name)
    assert sobject is not None
    return describe.full(sim.org.schema, sobject, "66.0")


def described(sim: Simulator, name: str) -> dict[str, dict[str, Any]]:
    """The fields of an object as an administrator sees them, by name."""
    return {field["name"]: field for field in describe_of(sim, name)["fields"]}


def test_the_shipped_file_is_of_this_catalogue() -> None:
    """The file in docs is what the catalogue calls for: `make permission-set` after a change."""
    assert permissions.SHIPPED.read_text() == permissions.permission_set()


def test_it_reads_and_changes_nothing() -> None:
    """Read and View All on the objects of the catalogue, read on fields, API Enabled: nothing else is granted."""
    root = granted(permissions.permission_set())

    assert values(root, "objectPermissions", "object") == sorted(CATALOGUE)
    assert set(values(root, "objectPermissions", "allowRead")) == {"true"}
    assert set(values(root, "objectPermissions", "viewAllRecords")) == {"true"}
    for right in ("allowCreate", "allowDelete", "allowEdit", "modifyAllRecords"):
        assert set(values(root, "objectPermissions", right)) == {"false"}
    assert set(values(root, "fieldPermissions", "editable")) == {"false"}
    assert set(values(root, "fieldPermissions", "readable")) == {"true"}
    assert values(root, "userPermissions", "name") == ["ApiEnabled"]


def test_elements_stand_in_the_order_that_salesforce_expects() -> None:
    """Elements of one kind are together, kinds and fields in the order of their names."""
    root = granted(permissions.permission_set())
    kinds = [each.tag.removeprefix(SPACE) for each in root]
    fields = values(root, "fieldPermissions", "field")

    assert kinds == sorted(kinds)
    assert fields == sorted(set(fields))


@pytest.mark.parametrize("name", ["Account", "Contact"])
def test_no_field_is_listed_that_salesforce_refuses(sim: Simulator, name: str) -> None:
    """A describe says of each listed field that it has field-level security; required ones have none."""
    fields = described(sim, name)
    listed = fields_of_every_org(CATALOGUE[name])
    # Flags are not nillable; profiles of real orgs list these three all the same.
    flags = {"DoNotCall", "HasOptedOutOfEmail", "HasOptedOutOfFax"}

    assert [field for field in listed - flags if not fields[field]["permissionable"]] == []
    assert not {"Id", "Name", "LastName", "OwnerId", "SystemModstamp"} & listed


@pytest.mark.parametrize("name", ["Account", "Contact"])
def test_every_mapped_field_is_listed_or_has_its_reason(sim: Simulator, name: str) -> None:
    """A mapped field is listed, by itself or by its address, unless it has no security or is a feature's."""
    listed = fields_of_every_org(CATALOGUE[name])
    reasons = permissions.NOT_PERMISSIONABLE | permissions.OF_SOME_ORGS
    missing = {
        field.name
        for field in CATALOGUE[name].fields
        if field.name not in listed | reasons
        and not OF_PERSONS.fullmatch(field.name)
        and not ((part := ADDRESS_PART.fullmatch(field.name)) and f"{part['address']}Address" in listed)
    }
    assert missing == set()


# ── for one org ───────────────────────────────────────────────────────────────────────────────────────


def saved(folder: Path, sim: Simulator, name: str, *, wrapped: bool = False) -> Path:
    """An administrator's describe in a file; wrapped as Salesforce's command line does."""
    described = describe_of(sim, name)
    path = folder / f"{name.lower()}.json"
    path.write_text(json.dumps({"status": 0, "result": described} if wrapped else described))
    return path


def test_describes_give_the_fields_of_one_org(
    tmp_path: Path, sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """With describes, the fields of the org's features and the named custom fields are listed, too."""
    output = tmp_path / "permissionsets" / "Customer_Replication.permissionset-meta.xml"
    files = [saved(tmp_path, sim, "Account"), saved(tmp_path, sim, "Contact", wrapped=True)]
    asked = [word for file in files for word in ("--describe", str(file))]

    custom = "Tier__c,Customer_Since__c"
    assert permissions.main([*asked, "--custom-fields", custom, "--output", str(output)]) == 0

    fields = values(granted(output.read_text()), "fieldPermissions", "field")
    assert {"Account.CleanStatus", "Account.Customer_Since__c", "Contact.Tier__c"} <= set(fields)
    assert {"Account.BillingAddress", "Contact.MailingAddress"} <= set(fields)
    assert "Contact.Nickname__c" not in fields
    assert [
        field for field in fields if re.search(r"\.(Person[A-Z]|Name$|Id$|Billing(?!Address|_))", field)
    ] == []
    assert str(output) in capsys.readouterr().out


def test_all_custom_fields(tmp_path: Path, sim: Simulator) -> None:
    """`all` lists every custom field that has field-level security."""
    text = permissions.for_org([saved(tmp_path, sim, "Contact")], {"all"})
    listed = values(granted(text), "fieldPermissions", "field")

    shown = described(sim, "Contact").values()
    expected = {f"Contact.{field['name']}" for field in shown if field["custom"] and field["permissionable"]}
    assert {name for name in listed if name.endswith("__c")} == {n for n in expected if n.endswith("__c")}


def test_a_describe_without_the_flag(tmp_path: Path) -> None:
    """A describe that was saved without `permissionable` lists what is neither required nor calculated by Salesforce."""
    fields = [
        {"name": "Title", "type": "string", "nillable": True, "updateable": True},
        {"name": "LastName", "type": "string", "nillable": False, "updateable": True},
        {"name": "LastActivityDate", "type": "date", "nillable": True, "updateable": False},
    ]
    path = tmp_path / "contact.json"
    path.write_text(json.dumps({"name": "Contact", "fields": fields}))

    assert values(granted(permissions.for_org([path])), "fieldPermissions", "field") == ["Contact.Title"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--describe", "FILE"], "--describe and --output belong together"),
        (["--custom-fields", "Tier__c"], "--custom-fields needs --describe"),
        (
            ["--describe", "STRANGE", "--output", "FILE"],
            "describes Stranger__c: the catalogue has Account",
        ),
        (["--describe", __file__, "--output", "FILE"], "is no describe in JSON"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that do not fit together, and files that are no describe, are refused; nothing is written."""
    target, strange = tmp_path / "file.xml", tmp_path / "strange.json"
    strange.write_text('{"name": "Stranger__c", "fields": []}')
    paths = {"FILE": str(target), "STRANGE": str(strange)}

    assert permissions.main([paths.get(word, word) for word in arguments]) == 2

    assert message in capsys.readouterr().err
    assert not target.exists()


def test_an_unknown_custom_field_is_refused(tmp_path: Path, sim: Simulator) -> None:
    """A custom field that no describe shows is named."""
    with pytest.raises(Exception, match="the describes show no field Teir__c"):
        permissions.for_org([saved(tmp_path, sim, "Contact")], {"Teir__c"})
