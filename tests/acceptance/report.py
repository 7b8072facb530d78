"""The report of a run as Markdown, to be attached to an issue: numbers, codes and API names, no values of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.acceptance.facts import FACTS, SOURCES
from tests.acceptance.findings import DIFFERS, HOLDS, NOT_TRIED, Findings

HIDDEN = "(hidden)"


def render(findings: Findings, secrets: Iterable[str]) -> str:
    """The report; what is secret is replaced, wherever it stands."""
    text = "\n".join(lines(findings)) + "\n"
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    return text


def lines(findings: Findings) -> Iterator[str]:
    numbers = ", ".join(f"{len(findings.of(result))} {result}" for result in (HOLDS, DIFFERS, NOT_TRIED))
    yield "# Acceptance run against a Salesforce org"
    yield ""
    yield from table(("about", "value"), findings.about)
    yield f"**Facts: {numbers}. Steps: {len(findings.steps)}, {len(findings.failed)} failed.**"
    yield ""
    yield "## What the product did"
    yield ""
    steps = [
        (
            step.name,
            "failed: " + step.failed if step.failed else "ok",
            f"{step.seconds:,.0f} s",
            step.calls,
            step.note,
        )
        for step in findings.steps
    ]
    yield from table(("step", "result", "time", "API calls", "note"), steps)
    yield "## Measured"
    yield ""
    yield from table(("what", "value"), findings.measured)
    yield "## Facts"
    yield ""
    facts = []
    for fact in FACTS:
        verdict = findings.facts[fact.id]
        result = f"**{verdict.result}**" if verdict.result == DIFFERS else verdict.result
        facts.append((fact.id, fact.text, SOURCES[fact.source], result, verdict.note))
    yield from table(("fact", "what the product believes", "so far", "result", "how"), facts)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table and an empty line."""
    yield row(head)
    yield "|" + "---|" * len(head)
    yield from map(row, rows)
    yield ""


def row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
