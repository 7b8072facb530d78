"""Single values: durations, keys, and the error for a value that is refused."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import timedelta

from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

# The sources of every setting; an empty value counts as not set.
SOURCES = SettingsConfigDict(
    env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def bad_value(message: str) -> PydanticCustomError:
    # "{" would be read as a placeholder.
    """Return the error for a refused value; pydantic adds the setting's name."""
    return PydanticCustomError("setting", "{message}", {"message": message})


def parse_duration(text: str) -> timedelta:
    """Parse `90s`, `10m`, `1h30m` or `2d`; raise ValueError for anything else."""
    if not re.fullmatch(r"(\d+[smhd])+", text.strip()):
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"(\d+)([smhd])", text)
    try:
        return timedelta(seconds=sum(int(amount) * UNITS[unit] for amount, unit in parts))
    except OverflowError:
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d") from None


def readable_pem(text: str) -> str:
    r"""Return a PEM given as it is, with `\\n` escapes, or as base64."""
    text = text.strip().replace("\\n", "\n")
    if "-----BEGIN" not in text:
        try:
            text = base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, ValueError):
            return text
    return text.strip() + "\n"
