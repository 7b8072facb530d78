"""The architecture as data: the packages, what each may import, and the libraries that one alone may know."""

from __future__ import annotations

# What each package may import beside what stands below all (BELOW_ALL); in the order of the layers, lowest first.
PACKAGES: dict[str, set[str]] = {
    "catalogue": set(),
    "config": set(),
    "window": {"catalogue"},
    "salesforce": {"catalogue", "config", "window"},
    "postgres": {"catalogue", "window"},
    "replication": {"salesforce", "postgres", "catalogue", "config", "window"},
    "operations": {"replication", "salesforce", "postgres", "catalogue", "config", "window"},
    "cli": {"operations", "replication", "salesforce", "postgres", "catalogue", "config"},
    "demo": {"cli", "operations", "replication", "salesforce", "postgres", "config"},
}
BELOW_ALL = {"errors", "logs"}
# The local Salesforce: imported by the demo alone, and only when that is asked for.
SIMULATOR = "simulator"
PLAYS_ON_IT = "demo"

# Third-party libraries that one package alone may import.
OWNED: dict[str, set[str]] = {
    "salesforce": {"requests", "simple_salesforce", "tenacity", "urllib3", "certifi"},
    "operations": {"apprise"},
    "cli": {"rich", "click"},
    "config": {"pydantic", "pydantic_settings"},
}
# Commands are declared in two packages.
SHARED: dict[str, set[str]] = {"typer": {"cli", "demo"}}

# Modules that talk to nobody and keep nothing: records, rows, names and query text.
PURE = (
    "errors",
    "window",
    "logs.printable",
    "catalogue",
    "salesforce.soql",
    "replication.budget.plan",
)

MOST_ENTRIES = 14  # of sync/, beside __init__.py
MOST_FILES = 12  # of a package, beside __init__.py
MOST_LAYERS = 8


def layers() -> list[set[str]]:
    """The packages in layers, lowest first: each imports from those below it alone."""
    placed: dict[str, int] = dict.fromkeys(BELOW_ALL, 0)
    while waiting := [name for name in PACKAGES if name not in placed]:
        ready = [name for name in waiting if PACKAGES[name] <= set(placed)]
        if not ready:
            raise ValueError(f"{', '.join(waiting)} import each other")
        for name in ready:
            placed[name] = 1 + max((placed[used] for used in PACKAGES[name] | BELOW_ALL), default=0)
    return [{name for name, layer in placed.items() if layer == at} for at in range(max(placed.values()) + 1)]


def reduced() -> dict[str, set[str]]:
    """The packages that each one imports, without those that it reaches through another."""

    def reached(name: str) -> set[str]:
        return PACKAGES[name] | {far for near in PACKAGES[name] for far in reached(near)}

    return {
        name: {each for each in used if not any(each in reached(other) for other in used - {each})}
        for name, used in PACKAGES.items()
    }
