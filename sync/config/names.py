"""Variables that are almost settings: a misspelt one would silently leave the default in force."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

PREFIXES = ("SYNC_", "SALESFORCE_")
# How much alike a name without our prefix has to be, and one with it.
CLOSE, ALIKE = 0.85, 0.6


def given(settings: type[BaseSettings]) -> frozenset[str]:
    """The names, in capitals, of all variables of the environment and `.env` that are not empty."""
    sources = (EnvSettingsSource(settings), DotEnvSettingsSource(settings))
    return frozenset(name.upper() for source in sources for name, value in source.env_vars.items() if value)


def strangers(present: Collection[str], known: Collection[str]) -> Iterator[str]:
    """A sentence for each variable that is no setting and was most likely meant to be one.

    Parameters: the names that are present, and those of all settings, in capitals. Every name with a prefix
    of ours counts. Of the others those count that are close to a setting that is not set: where it is,
    the like of it belongs to another program.
    """
    ours = sorted(set(known) - {"DYNO"})
    for name in sorted(set(present) - set(known)):
        prefixed = name.startswith(PREFIXES)
        near = get_close_matches(name, ours, n=1, cutoff=ALIKE if prefixed else CLOSE)
        if near and (prefixed or not (near[0] in present or is_longer(name, near[0]))):
            yield f"{name} is no setting: did you mean {near[0]}? Rename it, or unset it"
        elif prefixed:
            yield f"{name} is no setting: unset it"


def is_longer(name: str, setting: str) -> bool:
    """Whether a name is a setting's with a word before or behind it, as other programs have: UV_LOG_LEVEL."""
    return name.endswith(f"_{setting}") or name.startswith(f"{setting}_")
