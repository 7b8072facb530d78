"""The describe bodies: of the whole org, and of one object."""

from typing import Any

from sync.simulator.objects.schema import Schema, SObject, deletes_child

# Keys every entry of describe global has, with the values that no object of ours varies.
_COMMON: dict[str, Any] = {
    "activateable": False,
    "associateEntityType": None,
    "associateParentEntity": None,
    "createable": True,
    "custom": False,
    "customSetting": False,
    "deepCloneable": False,
    "deletable": True,
    "deprecatedAndHidden": False,
    "feedEnabled": True,
    "hasSubtypes": False,
    "isInterface": False,
    "isSubtype": False,
    "layoutable": True,
    "mruEnabled": True,
    "retrieveable": True,
    "searchable": True,
    "triggerable": True,
    "undeletable": True,
    "updateable": True,
}
_FULL: dict[str, Any] = {
    "actionOverrides": [],
    "compactLayoutable": True,
    "defaultImplementation": None,
    "extendedBy": None,
    "extendsInterfaces": None,
    "implementedBy": None,
    "implementsInterfaces": None,
    "listviewable": None,
    "lookupLayoutable": None,
    "namedLayoutInfos": [],
    "networkScopeFieldName": None,
    "searchLayoutable": True,
    "sobjectDescribeOption": "FULL",
}


def summary(sobject: SObject, version: str) -> dict[str, Any]:
    """One entry of describe global."""
    base = f"/services/data/v{version}/sobjects/{sobject.name}"
    body = {
        **_COMMON,
        "keyPrefix": sobject.key_prefix,
        "label": sobject.label,
        "labelPlural": sobject.label_plural,
        "name": sobject.name,
        "mergeable": sobject.mergeable,
        "queryable": sobject.queryable,
        "replicateable": sobject.replicateable,
        "undeletable": sobject.recyclable,
        "urls": {
            "compactLayouts": f"{base}/describe/compactLayouts",
            "rowTemplate": f"{base}/{{ID}}",
            "approvalLayouts": f"{base}/describe/approvalLayouts",
            "listviews": f"{base}/listviews",
            "describe": f"{base}/describe",
            "quickActions": f"{base}/quickActions",
            "layouts": f"{base}/describe/layouts",
            "sobject": base,
        },
    }
    return dict(sorted(_as_recorded(body, sobject).items()))


def _as_recorded(body: dict[str, Any], sobject: SObject) -> dict[str, Any]:
    return body | {name: value for name, value in sobject.recorded.items() if name in body and name != "urls"}


def full(schema: Schema, sobject: SObject, version: str) -> dict[str, Any]:
    """An object's describe, as far as the user may see it."""
    layout = f"/services/data/v{version}/sobjects/{sobject.name}/describe/layouts/012000000000000AAA"
    body = {
        **summary(sobject, version),
        **_as_recorded(_FULL, sobject),
        "childRelationships": _children(schema, sobject),
        "fields": [field.describe() for field in schema.visible_fields(sobject)],
        "recordTypeInfos": [
            {
                "active": True,
                "available": True,
                "defaultRecordTypeMapping": True,
                "developerName": "Master",
                "master": True,
                "name": "Master",
                "recordTypeId": "012000000000000AAA",
                "urls": {"layout": layout},
            }
        ],
        "supportedScopes": [{"label": f"All {sobject.label_plural.lower()}", "name": "everything"}],
    }
    return dict(sorted(body.items()))


def _children(schema: Schema, sobject: SObject) -> list[dict[str, Any]]:
    return [
        {
            "cascadeDelete": deletes_child(sobject, child, field),
            "childSObject": child.name,
            "deprecatedAndHidden": False,
            "field": field.name,
            "junctionIdListNames": [],
            "junctionReferenceTo": [],
            "relationshipName": child.label_plural if field.name == "AccountId" else None,
            "restrictedDelete": False,
        }
        for child in schema.visible_objects()
        for field in schema.visible_fields(child)
        if sobject.name in field.reference_to
    ]
