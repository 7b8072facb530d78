"""Settings of API calls: how many a day, and how many at once."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from sync.config.values import SOURCES, bad_value

FEWEST_AT_ONCE, MOST_AT_ONCE = 2, 10


class BudgetSettings(BaseSettings):
    """The share of the org's daily requests that stops all work, the calls of our own a day (None: a share of
    the org's limit), and the requests at once."""

    model_config = SOURCES

    sync_api_budget: float = 0.8
    sync_api_calls_per_day: Annotated[int | None, NoDecode] = None
    sync_concurrent_requests: Annotated[int, NoDecode] = 2

    @field_validator("sync_api_budget", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip())
        if not match or not 0 < float(match[1]) <= 100:
            raise bad_value(f"{value!r} is not a share of the daily requests: write for example 80%")
        return float(match[1]) / 100

    @field_validator("sync_api_calls_per_day", mode="before")
    @classmethod
    def _calls(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(r"[0-9]{1,9}", value.strip()) or int(value) == 0:
            raise bad_value(f"{value!r} is not a number of API calls a day: write for example 5000")
        return int(value)

    @field_validator("sync_concurrent_requests", mode="before")
    @classmethod
    def _at_once(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = int(value) if re.fullmatch(r"[0-9]{1,3}", value.strip()) else 0
        if not FEWEST_AT_ONCE <= found <= MOST_AT_ONCE:
            raise bad_value(f"must be from {FEWEST_AT_ONCE} to {MOST_AT_ONCE}, for example 2")
        return found
