"""Variables with a name close to a setting's: a misspelt setting would silently keep its default."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

PREFIXES = ("SYNC_", "SALESFORCE_")
# The least similarity (difflib ratio) to a setting's name, without and with one of our prefixes.
SIMILARITY, SIMILARITY_PREFIXED = 0.85, 0.6


def read_variable_names(settings: type[BaseSettings]) -> frozenset[str]:
    """Return the upper-case names of all non-empty variables of the environment and of `.env`."""
    sources = (EnvSettingsSource(settings), DotEnvSettingsSource(settings))
    return frozenset(name.upper() for source in sources for name, value in source.env_vars.items() if value)


def find_misspelt(present: Collection[str], known: Collection[str]) -> Iterator[str]:
    """Yield a message for each variable that is no setting but was probably meant to be one.

    `present` are the names of the variables, `known` those of all settings, in upper case. Every name with
    one of our prefixes is reported. Another name is reported only if it is close to a setting that is not
    set: if that setting is set, the other variable belongs to another program.
    """
    settings = sorted(set(known) - {"DYNO"})
    for name in sorted(set(present) - set(known)):
        prefixed = name.startswith(PREFIXES)
        near = get_close_matches(name, settings, n=1, cutoff=SIMILARITY_PREFIXED if prefixed else SIMILARITY)
        if near and (prefixed or not (near[0] in present or extends_setting(name, near[0]))):
            yield f"{name} is not a setting: did you mean {near[0]}? Rename it, or unset it"
        elif prefixed:
            yield f"{name} is not a setting: unset it"


def extends_setting(name: str, setting: str) -> bool:
    """Return whether a name adds a word before or after a setting's, as UV_LOG_LEVEL of another program
    does."""
    return name.endswith(f"_{setting}") or name.startswith(f"{setting}_")
