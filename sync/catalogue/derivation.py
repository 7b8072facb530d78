"""Derivations: computations of columns from raw values, each with the version that its results are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A raw value and the default phone region give the normalised text, or None where there is none.
Normaliser = Callable[[str, str], str | None]


@dataclass(frozen=True, slots=True)
class Derivation:
    """A function that normalises a raw value, and what its results depend on beside that value.

    `number` counts the versions of our code. `regional`: the default phone region matters. `library` is the
    name and version of a library that decides, or "". `meaning` tells readers of the column what it holds.
    """

    name: str
    number: int
    normalise: Normaliser
    regional: bool = False
    library: str = ""
    meaning: str = ""

    def __call__(self, raw: str, region: str) -> str | None:
        return self.normalise(raw, region)

    def version(self, region: str) -> str:
        """All that the results depend on, as a text: stored results of another version are out of date."""
        parts = (
            f"{self.name} {self.number}",
            f"region {region}" if self.regional else "",
            self.library,
        )
        return ", ".join(filter(None, parts))


def derivation(
    name: str, number: int, *, regional: bool = False, library: str = "", meaning: str = ""
) -> Callable[[Normaliser], Derivation]:
    """Declare a function a derivation.

    Raise `number` with every change of our code by which a value gives another result: the next pass then
    computes the column again in all rows, from the stored values. A test compares results with the number.
    """

    def declare(normalise: Normaliser) -> Derivation:
        return Derivation(name, number, normalise, regional, library, meaning)

    return declare
