"""Users, the organization and permissions, each with the fields that clients use."""

from sync.simulator.fields import Field
from sync.simulator.objects.standard import READ_ONLY, SYSTEM, flag, lookup, picklist, stamps, text


def user_fields() -> list[Field]:
    return [
        Field("Id", "id", length=18, label="User ID", **SYSTEM),
        text("Username", 80, nillable=False),
        text("LastName", 80, nillable=False, compound="Name"),
        text("FirstName", 40, compound="Name"),
        text("Name", 121, nillable=False, name_field=True, **READ_ONLY),
        text("Email", 128, "email", nillable=False),
        flag("IsActive"),
        *stamps(),
    ]


def organization_fields() -> list[Field]:
    return [
        Field("Id", "id", length=18, label="Organization ID", **SYSTEM),
        text("Name", 80, nillable=False, name_field=True),
        flag("IsSandbox", **READ_ONLY),
        picklist("OrganizationType", 40, ("Developer Edition", "Enterprise Edition"), **READ_ONLY),
        text("InstanceName", 5, **READ_ONLY),
        Field("TrialExpirationDate", "datetime", **READ_ONLY),
        text("NamespacePrefix", 15, **READ_ONLY),
        text("LanguageLocaleKey", 40),
        text("TimeZoneSidKey", 40),
        *stamps(),
    ]


def permission_set_fields() -> list[Field]:
    return [
        Field("Id", "id", length=18, label="Permission Set ID", **SYSTEM),
        text("Name", 80, nillable=False, name_field=True),
        text("Label", 80, nillable=False),
        flag("IsOwnedByProfile", **READ_ONLY),
        flag("PermissionsViewAllData"),
        flag("PermissionsModifyAllData"),
        *stamps(),
    ]


def assignment_fields() -> list[Field]:
    return [
        Field("Id", "id", length=18, label="Permission Set Assignment ID", **SYSTEM),
        lookup("PermissionSetId", "PermissionSet", "PermissionSet", updateable=False),
        lookup("AssigneeId", "Assignee", "User", nillable=False, updateable=False),
        Field("SystemModstamp", "datetime", **SYSTEM),
    ]


def object_permission_fields() -> list[Field]:
    return [
        Field("Id", "id", length=18, label="Object Permissions ID", **SYSTEM),
        lookup("ParentId", "Parent", "PermissionSet", nillable=False, updateable=False),
        picklist("SobjectType", 40, ("Account", "Contact"), nillable=False, updateable=False),
        flag("PermissionsRead"),
        flag("PermissionsViewAllRecords", switch="view_all"),
        *stamps(),
    ]
