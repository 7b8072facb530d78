"""Labels: what the fields are called in Salesforce's pages, where a describe has told.

They are in `objects/labels.txt`, a line for each field, and in the describes that `make object` keeps beside
the declarations. An org may choose its own labels: those here are the ones that a describe had.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from sync.catalogue import objects
from sync.catalogue.mapping import sql_name

FOLDER = Path(objects.__path__[0])
LABELS = FOLDER / "labels.txt"


def label(sobject: str, field: str) -> str:
    """Return the label of a field by the API names of object and field; "" where none is known."""
    return listed().get(f"{sobject}.{field}") or described(sobject).get(field, "")


@cache
def listed() -> dict[str, str]:
    """Return the labels of `labels.txt` by `Object.Field`."""
    lines = LABELS.read_text(encoding="utf-8").splitlines()
    return {name: " ".join(label.split()) for name, _, label in (line.partition(" ") for line in lines)}


@cache
def described(sobject: str) -> dict[str, str]:
    """Return the labels of the describe beside an object's declaration; none where there is no describe."""
    file = FOLDER / f"{sql_name(sobject)}.json"
    if not file.is_file():
        return {}
    fields = json.loads(file.read_text(encoding="utf-8"))["fields"]
    return {raw["name"]: " ".join(str(raw.get("label") or "").split()) for raw in fields}
