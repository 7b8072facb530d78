"""Settings of what is stored beside the replicas: how long it is kept, and how large the database may be."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from sync.config.values import SOURCES, bad_value, parse_duration

UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=3650)


class StorageSettings(BaseSettings):
    """How long the feed and the journal are kept, and the size of the plan in bytes (None: not known)."""

    model_config = SOURCES

    sync_feed_retention: timedelta = timedelta(days=30)
    sync_run_retention: timedelta = timedelta(days=90)
    sync_database_limit: Annotated[int | None, NoDecode] = None

    @field_validator("sync_feed_retention", "sync_run_retention", mode="before")
    @classmethod
    def _kept(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            kept = parse_duration(value)
        except ValueError as error:
            raise bad_value(str(error)) from None
        if not SHORTEST <= kept <= LONGEST:
            raise bad_value("must be between 1h and 3650d, for example 30d")
        return kept

    @field_validator("sync_database_limit", mode="before")
    @classmethod
    def _limit(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([kmgt]b)", value.strip().lower())
        if not match or float(match[1]) == 0:
            raise bad_value(f"{value!r} is not a size: write for example 1GB or 500MB")
        return int(float(match[1]) * UNITS[match[2]])
