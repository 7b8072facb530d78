"""The picture of the packages in the README, drawn from the data that the layout test holds."""

from __future__ import annotations

from tests.project.layout import BELOW_ALL, PACKAGES, PLAYS_ON_IT, SIMULATOR, reduced

# What is in each package, in a few words.
CONTENTS = {
    "cli": "commands, output, exit codes",
    "demo": "the demo and its PostgreSQL",
    "operations": "worker, status, check, grants, erasure",
    "replication": "the pass: windows, merge, deletions, verify",
    "salesforce": "login, queries, Bulk jobs",
    "postgres": "tables, SQL, cursors, leases, feed",
    "window": "window, page, key: shared values",
    "catalogue": "objects, fields, record to row",
    "config": "environment to settings",
    "simulator": "a local Salesforce",
}


def mermaid() -> str:
    """The packages as a Mermaid diagram: an arrow leads from a package to one that it imports.

    A package that is reached through another one has no arrow of its own. What stands below all is left out.
    """
    drawn = [name for name in reversed(PACKAGES) if name not in BELOW_ALL]
    lines = ["flowchart TD"]
    lines += [f'    {name}["<b>{name}</b><br>{CONTENTS[name]}"]' for name in [*drawn, SIMULATOR]]
    edges = reduced()
    lines += [f"    {name} --> {' & '.join(sorted(edges[name]))}" for name in drawn if edges[name]]
    lines.append(f"    {PLAYS_ON_IT} -.-> {SIMULATOR}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(mermaid(), end="")
