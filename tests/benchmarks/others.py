"""The one-off scripts that users write today, run as processes of their own."""

from __future__ import annotations

import json
from importlib.util import find_spec

from sync.salesforce import soql
from sync.window import Scope
from tests.benchmarks.database import Database
from tests.benchmarks.measure import OBJECTS, PANDAS, SCRIPTS, Outcome, process
from tests.benchmarks.org import Org
from tests.benchmarks.worker import ENVIRONMENT


def missing(what: str) -> str:
    """The package that a script needs and that is not installed, if any."""
    return "pandas" if what == PANDAS and find_spec("pandas") is None else ""


def run(what: str, org: Org, database: Database) -> Outcome:
    """Let one script copy the same fields of the same objects into its own tables, account and contact."""
    database.settle()
    projections = [org.projection(name) for name in OBJECTS]
    given = {
        "DATABASE_URL": database.url,
        "TOKEN": org.log_in()["Authorization"].removeprefix("Bearer "),
        "QUERIES": json.dumps({each.sobject.name: soql.select(each, Scope(), None) for each in projections}),
    }
    return process([f"tests.benchmarks.scripts.{SCRIPTS[what]}"], {**ENVIRONMENT, **org.settings, **given})
