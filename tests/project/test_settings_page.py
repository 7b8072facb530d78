"""docs/settings.md against the settings: every name, every default, every refusal."""

from __future__ import annotations

import re
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from sync.catalogue.catalogue import CATALOGUE
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.names import find_misspelt
from sync.config.settings import DatabaseSettings, Settings, describe_errors, load_settings, settings_from
from sync.config.values import parse_duration
from sync.errors import ConfigError
from tests.project.pages import ROOT, blocks, rows, section, spans
from tests.project.test_pages import NEEDED

PAGE = "docs/settings.md"
TABLES = ("Database", "Salesforce", "What is replicated, and when", "Alerts", "Logs")
# Not a setting: Heroku's name for this process.
PLATFORM = {"DYNO"}
# A default that depends on what a team has declared, and the names that a refusal then lists.
WHOLE = "all of the catalogue"
LISTED = "Account, Contact, …"


def documented() -> dict[str, tuple[str, str]]:
    """Each setting of the page with its meaning and its default."""
    found = [row for title in TABLES for row in rows(section(PAGE, title))]
    named = {spans(name)[0]: (meaning, default) for name, meaning, default in found}
    assert len(named) == len(found), "a setting stands in two rows"
    return named


def test_every_setting_is_there() -> None:
    """The page has every setting once, and no other."""
    assert set(documented()) == {name.upper() for name in Settings.model_fields} - PLATFORM


@pytest.mark.parametrize("name", sorted(documented()))
def test_defaults_are_the_codes(name: str) -> None:
    """The default of each setting is the code's."""
    field = Settings.model_fields[name.lower()]
    _, default = documented()[name]

    if field.is_required():
        assert default == "required"
    elif default == WHOLE:
        assert settings_from(NEEDED, OBJECT_CHOICES).sync_objects == tuple(CATALOGUE)
    elif default.split(":")[0] == "none":
        assert field.default in (None, frozenset())
    else:
        assert meaning_of(name, default.strip("`")) == getattr(
            settings_from(NEEDED, OBJECT_CHOICES), name.lower()
        )


def meaning_of(name: str, value: str) -> Any:
    """What the settings make of a value."""
    return getattr(settings_from(NEEDED | {name: value}), name.lower())


def test_the_example_file_has_these_defaults() -> None:
    """`.env.example` has the names of the page, and its defaults."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    shown = {name: default.strip("`") for name, (_, default) in documented().items()}

    assert set(example) == set(shown)
    for name, value in example.items():
        if shown[name] != "required":
            assert value == ("" if shown[name].startswith(("none", WHOLE)) else shown[name]), name


def test_database_settings_are_enough_for_the_database() -> None:
    """The settings that a command needs for the database alone need no Salesforce."""
    required = {name for name, field in DatabaseSettings.model_fields.items() if field.is_required()}
    assert required == {"database_url"}
    assert DatabaseSettings.model_fields["sync_interval"].default is not PydanticUndefined


REFUSALS = [(spans(given)[0], message) for given, message in rows(section(PAGE, "Examples of refusals"))]


@pytest.mark.parametrize(("given", "message"), REFUSALS)
def test_refusals_read_as_shown(
    given: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each example is refused with the very words of the page."""
    name, value = given.split("=", 1)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        for each, text in (NEEDED | {name: value}).items():
            patch.setenv(each, text)
        with pytest.raises(ConfigError) as refused:
            load_settings(OBJECT_CHOICES)

    message = message.replace(LISTED, ", ".join(CATALOGUE))
    lines = [line.removeprefix("  - ") for line in str(refused.value).splitlines()[1:]]
    assert [line.removeprefix(f"{name} ") for line in lines] == [message.removeprefix(f"{name} ")], (
        "the page shows another refusal"
    )
    assert refused.value.exit_code == 3


def test_every_kind_of_refusal_has_an_example() -> None:
    """A setting whose values are checked by a rule of ours has an example of a refusal."""
    shown = {given.split("=")[0] for given, _ in REFUSALS}
    checked = {
        name.upper()
        for validator in Settings.__pydantic_decorators__.field_validators.values()
        for name in validator.info.fields
    }
    # Shown without an example: keys are in docs/security.md, LOG_* have a list of values.
    assert checked - shown <= {
        "SALESFORCE_PRIVATE_KEY",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "SYNC_TOMBSTONE_RETENTION",
        "SYNC_VOLATILE_INTERVAL",
    }


def test_durations_are_as_shown() -> None:
    """The page's examples of durations are durations."""
    text = section(PAGE, "What is replicated, and when")
    [line] = re.findall(r"^A duration is written (.*)\.$", text, re.M)
    assert [parse_duration(span) for span in spans(line)] == [
        timedelta(seconds=90),
        timedelta(minutes=10),
        timedelta(minutes=90),
        timedelta(days=2),
    ]
    assert Settings.model_fields["sync_verify_at"].default == time(3)


def test_the_shown_message_is_the_codes() -> None:
    """The page's example of several problems at once is what a command prints."""
    [shown] = [block.text for block in blocks(PAGE) if block.language == "text"]
    try:
        DatabaseSettings.model_validate({})
    except ValidationError as error:
        missing = describe_errors(error)
    strange = list(find_misspelt({"SYNC_INTERVALL"}, {name.upper() for name in Settings.model_fields}))
    assert shown.splitlines()[1:] == [f"  - {line}" for line in (*missing[:1], *strange)]
