"""Single values: durations, keys, addresses; what is wrong with them is said in words."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import timedelta

from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

# Where every setting comes from; an empty value counts as not set.
SOURCES = SettingsConfigDict(
    env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def wrong(message: str) -> PydanticCustomError:
    # "{" would be read as a placeholder.
    return PydanticCustomError("setting", "{message}", {"message": message})


def parse_duration(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m`, `2d` → timedelta; ValueError otherwise."""
    if not re.fullmatch(r"(\d+[smhd])+", text.strip()):
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"(\d+)([smhd])", text)
    try:
        return timedelta(seconds=sum(int(amount) * UNITS[unit] for amount, unit in parts))
    except OverflowError:
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d") from None


def readable_pem(text: str) -> str:
    """A PEM from itself, from its form with `\\n` escapes, or from its base64."""
    text = text.strip().replace("\\n", "\n")
    if "-----BEGIN" not in text:
        try:
            text = base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, ValueError):
            return text
    return text.strip() + "\n"
