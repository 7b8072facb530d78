"""Names, Ids, and how the catalogue meets an org's describe."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import (
    Derived,
    DescribedField,
    Field,
    Kind,
    SObject,
    checksum,
    full_id,
    project,
    snake_case,
)
from sync.catalogue.transform import normalise_email
from sync.errors import SyncError, UsageError
from tests.support.world import column_of

REQUIRED = (
    Field("Id", Kind.ID),
    Field("IsDeleted", Kind.BOOLEAN),
    Field("SystemModstamp", Kind.DATETIME),
    Field("MasterRecordId", Kind.TEXT),
)
THING = SObject("Thing", "a01", (*REQUIRED, Field("Title", Kind.TEXT), Field("Size", Kind.INTEGER)))


def described(*fields: tuple[str, str]) -> list[DescribedField]:
    """A describe with the required fields and these, as (name, type)."""
    always = (("Id", "id"), ("IsDeleted", "boolean"), ("SystemModstamp", "datetime"))
    return [
        DescribedField(name, kind, "__" in name)
        for name, kind in (*always, ("MasterRecordId", "reference"), *fields)
    ]


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("Id", "id"),
        ("IsDeleted", "is_deleted"),
        ("BillingPostalCode", "billing_postal_code"),
        ("LastCURequestDate", "last_cu_request_date"),
        ("LastCUUpdateDate", "last_cu_update_date"),
        ("FirstCallDateTime", "first_call_date_time"),
        ("CanAllowPortalSelfReg", "can_allow_portal_self_reg"),
        ("JigsawCompanyId", "jigsaw_company_id"),
        ("DandbCompanyId", "dandb_company_id"),
        ("CurrencyIsoCode", "currency_iso_code"),
        ("PhotoUrl", "photo_url"),
        ("NaicsCode", "naics_code"),
        ("Sic", "sic"),
        ("IsEmailBounced", "is_email_bounced"),
        ("HTTPServer2Name", "http_server2_name"),
        ("OpportunityLineItem", "opportunity_line_item"),
    ],
)
def test_column_names(name: str, column: str) -> None:
    """A column is the snake_case of the API name, runs of capitals kept together."""
    assert snake_case(name) == column


@pytest.mark.parametrize("sobject", CATALOGUE.values(), ids=lambda sobject: sobject.name)
def test_every_column_of_the_catalogue(sobject: SObject) -> None:
    """Every field of the catalogue has the column that consumers were promised."""
    assert [field.column for field in sobject.fields] == [column_of(field.name) for field in sobject.fields]


def test_derived_columns_are_the_published_ones() -> None:
    """Exactly five columns are computed in flight, each next to the field it comes from."""
    derived = [
        f"{sobject.table}.{d.column} from {field.name}"
        for sobject in CATALOGUE.values()
        for field in sobject.fields
        for d in field.derived
    ]

    assert derived == [
        "account.phone_e164 from Phone",
        "account.website_host from Website",
        "contact.email_normalized from Email",
        "contact.phone_e164 from Phone",
        "contact.mobile_phone_e164 from MobilePhone",
    ]


@pytest.mark.parametrize("sobject", CATALOGUE.values(), ids=lambda sobject: sobject.name)
def test_catalogue_leaves_out_what_depends_on_who_asks(sobject: SObject) -> None:
    """Compound values come by their parts; LastViewedDate and LastReferencedDate are nobody's data."""
    names = {field.name for field in sobject.fields}

    assert not names & {"LastViewedDate", "LastReferencedDate"}
    assert not {name for name in names if name.endswith("Address")}


# ── Ids ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("short", "suffix"),
    [
        ("003RO0000035WQg", "YAM"),
        ("01gRO0000016PIA", "YA2"),
        ("001000000000000", "AAA"),
        ("ABCDEFGHIJKLMNO", "555"),
        ("abcdefghijklmno", "AAA"),
        ("001900K0001pPuO", "ACU"),
        ("A0000B0000C0000", "BBB"),
        ("0000A0000B0000C", "QQQ"),
    ],
)
def test_short_id_gets_its_checksum(short: str, suffix: str) -> None:
    """A 15-character Id gets the three characters that Salesforce gives it."""
    assert checksum(short) == suffix
    assert full_id(short) == short + suffix
    assert full_id(f"  {short}{suffix}\n") == short + suffix


ID15 = st.text(alphabet=string.ascii_letters + string.digits, min_size=15, max_size=15)


@settings(derandomize=True, deadline=None, database=None)
@given(ID15)
def test_checksum_by_the_rule(short: str) -> None:
    """The checksum is, per five characters, which of them are capitals, as a number from A to 5."""
    letters = string.ascii_uppercase + "012345"
    expected = ""
    for start in (0, 5, 10):
        bits = "".join("1" if char in string.ascii_uppercase else "0" for char in short[start : start + 5])
        expected += letters[int(bits[::-1], 2)]

    assert checksum(short) == expected


@settings(derandomize=True, deadline=None, database=None)
@given(ID15, st.lists(st.booleans(), min_size=15, max_size=15))
def test_checksum_tells_ids_apart_without_case(one: str, flips: list[bool]) -> None:
    """Two Ids that differ only in case differ in their checksum: that is what it is for."""
    other = "".join(char.swapcase() if flip else char for char, flip in zip(one, flips, strict=True))

    assert (checksum(other) == checksum(one)) == (other == one)


def test_checksum_in_lower_case_is_accepted() -> None:
    """The last three characters carry no case; the Id comes out as Salesforce writes it."""
    assert full_id("003RO0000035WQgyam") == "003RO0000035WQgYAM"


@pytest.mark.parametrize("mistyped", ["003RO0000035WQgAAA", "003rO0000035WQgYAM"])
def test_wrong_checksum_is_refused(mistyped: str) -> None:
    """One wrong letter must not reach another customer's record."""
    with pytest.raises(UsageError, match="is mistyped"):
        full_id(mistyped)


@pytest.mark.parametrize("changed", ["003ro0000035wqgyam", "003RO0000035WQGYAM"])
def test_id_that_lost_its_case_is_restored(changed: str) -> None:
    """Spreadsheets and systems without case change an 18-character Id; its checksum says which letters."""
    assert full_id(changed) == "003RO0000035WQgYAM"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "003",
        "003RO0000035WQg1",
        "003RO0000035WQgYAMX",
        "003RO0000035WQ'",
        "003RO0000035WQé",
        "x" * 15_000,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    """Anything but 15 or 18 letters and digits is refused before it gets into a query."""
    with pytest.raises(UsageError, match="is not a Salesforce Id: give 15 or 18 letters and digits"):
        full_id(text)


# ── the catalogue checks itself ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    ["", "name", "Account.Name", "Name; DROP", "First Name", "Ünicode", "Tier__", "__c", "Tier__c;", "Ü__c"],
)
def test_field_names_are_api_names(name: str) -> None:
    """A catalogue line with anything but an API name is refused when the module is imported."""
    with pytest.raises(SyncError, match="is not a field's API name: write for example Title or Tier__c"):
        Field(name, Kind.TEXT)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("Tier__c", "tier__c"),
        ("Customer_Number__c", "customer_number__c"),
        ("acme__LoyaltyTier__c", "acme__loyaltytier__c"),
        ("Region__pc", "region__pc"),
        ("Place__Latitude__s", "place__latitude__s"),
    ],
)
def test_custom_fields_have_the_columns_of_heroku_connect(name: str, column: str) -> None:
    """The column of a custom field is its API name in lower case."""
    assert Field(name, Kind.TEXT).column == column


def test_only_text_is_normalised() -> None:
    """A derived column needs a text to come from."""
    with pytest.raises(SyncError, match="Birthdate: only text can be normalised"):
        Field("Birthdate", Kind.DATE, (Derived("born", normalise_email),))


@pytest.mark.parametrize("left_out", ["Id", "IsDeleted", "SystemModstamp"])
def test_object_needs_what_replication_needs(left_out: str) -> None:
    """An object without Id, IsDeleted or SystemModstamp cannot be declared, and the reason is said."""
    kept = tuple(field for field in REQUIRED if field.name != left_out)

    with pytest.raises(SyncError, match=f"Thing cannot be replicated: without {left_out} \\w+"):
        SObject("Thing", "a01", kept)


def test_objects_that_cannot_be_merged_lack_the_survivor() -> None:
    """MasterRecordId is there where records can be merged, and no other object needs it."""
    assert THING.mergeable
    assert not SObject("Thing", "a01", tuple(f for f in REQUIRED if f.name != "MasterRecordId")).mergeable


@pytest.mark.parametrize("name", ["Custom", "DeletedAt", "SyncedAt", "DeletedReason"])
def test_object_leaves_our_columns_alone(name: str) -> None:
    """A field cannot have a column that every replica has beside the fields'."""
    with pytest.raises(SyncError, match=r"Thing: the column \w+ is the product's own"):
        SObject("Thing", "a01", (*REQUIRED, Field(name, Kind.TEXT)))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("OpportunityLineItem", "opportunity_line_item"),
        ("Invoice__c", "invoice__c"),
        ("acme__MyThing__c", "acme__mything__c"),
    ],
)
def test_table_names(name: str, table: str) -> None:
    """Tables of custom objects are named as Heroku Connect names them, others in snake_case."""
    assert SObject(name, "a01", REQUIRED).table == table


def test_long_table_names_are_cut_and_differ() -> None:
    """PostgreSQL would cut a long name by itself, and two of them to the same one."""
    one, two = (SObject(f"acme__{'Very_Long_' * 4}{x}__c", "a01", REQUIRED).table for x in "AB")

    assert one != two
    assert max(len(f"listing_{one}"), len(f"{one}_deleted_at_idx")) <= 63


def test_object_names_a_column_once() -> None:
    """Two fields, or a field and a derived column, cannot share a column."""
    twice = (
        *REQUIRED,
        Field("Email", Kind.TEXT, (Derived("title", normalise_email),)),
        Field("Title", Kind.TEXT),
    )

    with pytest.raises(SyncError, match="Thing names title twice"):
        SObject("Thing", "a01", twice)


def test_object_looks_up_by_columns_it_has() -> None:
    """An index needs a column."""
    with pytest.raises(SyncError, match="Thing: no column colour to look up by"):
        SObject("Thing", "a01", REQUIRED, lookups=("id", "colour"))


@pytest.mark.parametrize("prefix", ["", "a0", "a01b"])
def test_id_prefix_has_three_characters(prefix: str) -> None:
    """Ids tell their object by three characters."""
    with pytest.raises(SyncError, match="Thing: an Id prefix has three characters"):
        SObject("Thing", prefix, REQUIRED)


# ── meeting a describe ────────────────────────────────────────────────────────────────────────────────


def test_projection_of_a_perfect_fit() -> None:
    """Where the org shows every field as expected, all are selected and nothing is reported."""
    fitted = project(THING, described(("Title", "string"), ("Size", "int")))

    assert fitted.names == ("Id", "IsDeleted", "SystemModstamp", "MasterRecordId", "Title", "Size")
    assert fitted.columns == ("id", "is_deleted", "system_modstamp", "master_record_id", "title", "size")
    assert (fitted.hidden, fitted.retyped, fitted.custom, fitted.unmapped) == ((), (), (), ())


def test_hidden_field_is_left_out_and_named() -> None:
    """A field that the integration user cannot see is not asked for, and is reported."""
    fitted = project(THING, described(("Size", "int")))

    assert fitted.names == ("Id", "IsDeleted", "SystemModstamp", "MasterRecordId", "Size")
    assert fitted.hidden == ("Title",)


def test_hidden_field_takes_its_derived_columns_along() -> None:
    """Nothing is written to a derived column whose field is hidden."""
    mail = SObject(
        "Thing", "a01", (*REQUIRED, Field("Email", Kind.TEXT, (Derived("lower", normalise_email),)))
    )

    assert project(mail, described()).columns == ("id", "is_deleted", "system_modstamp", "master_record_id")
    assert project(mail, described(("Email", "email"))).columns[-2:] == ("email", "lower")


@pytest.mark.parametrize("field", ["Id", "IsDeleted", "SystemModstamp"])
def test_hidden_essential_is_an_error(field: str) -> None:
    """Without Id, IsDeleted or SystemModstamp nothing can be replicated, and the error says whom to ask."""
    shown = [one for one in described() if one.name != field]

    with pytest.raises(SyncError, match=f"Thing: the integration user cannot see {field}; grant read access"):
        project(THING, shown)


def test_hidden_master_record_is_tolerated() -> None:
    """Without MasterRecordId deletes are still seen; only merges cannot be told from them."""
    shown = [one for one in described() if one.name != "MasterRecordId"]

    assert project(THING, shown).hidden == ("MasterRecordId", "Title", "Size")


def test_retyped_field_is_read_on_and_named() -> None:
    """A field whose type changed is still read, record by record, and reported with its new type."""
    fitted = project(THING, described(("Title", "picklist"), ("Size", "string")))

    assert fitted.retyped == (("Size", "string"),)
    assert "Size" in fitted.names


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (
            Kind.TEXT,
            ("string", "picklist", "textarea", "phone", "email", "url", "reference", "combobox", "time"),
        ),
        (Kind.NUMBER, ("double", "currency", "percent", "int")),
        (Kind.INTEGER, ("int",)),
        (Kind.BOOLEAN, ("boolean",)),
        (Kind.DATE, ("date",)),
        (Kind.DATETIME, ("datetime",)),
        (Kind.MULTIPICKLIST, ("multipicklist",)),
    ],
)
def test_types_that_fit_a_kind(kind: Kind, types: tuple[str, ...]) -> None:
    """Each kind fits the describe types whose values it keeps without loss, and no others of the table."""
    every = {name for each in Kind for name in each.value if name != "id"}
    sobject = SObject("Thing", "a01", (*REQUIRED, Field("Value", kind)))

    fitting = {name for name in every if not project(sobject, described(("Value", name))).retyped}

    assert set(types) <= fitting
    assert fitting == set(kind.value) - {"id"}


@pytest.mark.parametrize("kind", ["address", "location", "base64"])
def test_compounds_and_blobs_are_never_selected(kind: str) -> None:
    """Compound and binary values are not replicated, custom or standard."""
    fitted = project(THING, described(("Title", kind), ("Where__c", kind), ("Elsewhere", kind)))

    assert fitted.names == ("Id", "IsDeleted", "SystemModstamp", "MasterRecordId")
    assert fitted.unmapped == ()


def test_names_with_a_compound_name_are_selected() -> None:
    """FirstName and LastName belong to the compound Name and are replicated all the same."""
    contact = CATALOGUE["Contact"]
    org = described(("FirstName", "string"), ("LastName", "string"), ("Name", "string"))

    assert {"FirstName", "LastName", "Name"} <= set(project(contact, org).names)


CUSTOM = (
    ("Tier__c", "picklist"),
    ("Score__c", "double"),
    ("acme__Zone__c", "string"),
    ("Place__Latitude__s", "double"),
)


@pytest.mark.parametrize(
    ("wanted", "kept", "missing"),
    [
        ("all", ("Tier__c", "Score__c", "acme__Zone__c", "Place__Latitude__s"), ()),
        ("none", (), ()),
        (frozenset({"Score__c"}), ("Score__c",), ()),
        (frozenset({"acme__Zone__c", "Tier__c"}), ("Tier__c", "acme__Zone__c"), ()),
        (frozenset({"Tier__c", "Gone__c", "Away__c"}), ("Tier__c",), ("Away__c", "Gone__c")),
    ],
)
def test_custom_fields_by_wish(
    wanted: str | frozenset[str], kept: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """All, none, or the named custom fields are read; a named one that is not there is reported."""
    fitted = project(THING, described(("Title", "string"), ("Size", "int"), *CUSTOM), wanted)

    assert tuple(field.name for field in fitted.custom) == kept
    assert fitted.names[6:] == kept
    assert fitted.hidden == missing


def test_unmapped_standard_fields_are_reported() -> None:
    """A standard field that the catalogue does not know is named, not read."""
    fitted = project(THING, described(("Title", "string"), ("Size", "int"), ("Brand", "string")))

    assert fitted.unmapped == ("Brand",)
    assert "Brand" not in fitted.names


@pytest.mark.parametrize(
    ("raw", "custom"),
    [
        ({"name": "Tier__c", "type": "picklist", "custom": True}, True),
        ({"name": "Title", "type": "string", "custom": False}, False),
        ({"name": "Tier__pc", "type": "picklist"}, True),
        ({"name": "Title", "type": "string"}, False),
    ],
)
def test_describe_tells_custom_fields(raw: dict[str, object], custom: bool) -> None:
    """A field is custom if describe says so, and by its name where describe does not say."""
    assert DescribedField.of(raw) == DescribedField(str(raw["name"]), str(raw["type"]), custom)


def test_types_of_selected_fields() -> None:
    """Each selected field has the type of its kind, a custom one the type that describe gives it."""
    org = described(("Title", "picklist"), ("Size", "string"), *CUSTOM)
    fitted = project(THING, org)

    assert fitted.describe_types == {
        "Id": "id",
        "IsDeleted": "boolean",
        "SystemModstamp": "datetime",
        "MasterRecordId": "string",
        "Title": "string",
        "Size": "int",
        "Tier__c": "picklist",
        "Score__c": "double",
        "acme__Zone__c": "string",
        "Place__Latitude__s": "double",
    }
    assert tuple(fitted.describe_types) == fitted.names


def test_fingerprint_is_of_what_is_selected() -> None:
    """Pages read with other fields, or in another order of fields, cannot be continued: they are told apart."""
    title, size = ("Title", "string"), ("Size", "int")
    whole = project(THING, described(title, size, *CUSTOM))
    same = project(THING, described(size, *CUSTOM, title))
    others = [
        project(THING, described(title, *CUSTOM)),
        project(THING, described(title, size, *CUSTOM[1:])),
        project(THING, described(title, size, *CUSTOM[::-1])),
        project(THING, described(title, size, *CUSTOM), "none"),
    ]

    assert whole.fingerprint == same.fingerprint
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 5
