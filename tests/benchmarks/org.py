"""A simulated Salesforce in a process of its own: its settings, its controls, and its API with plain requests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import requests

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import DescribedField, Projection, project
from tests.support.world import ROOT

VERSION = "66.0"
NEEDED = {"SALESFORCE_LOGIN_URL", "SALESFORCE_CLIENT_SECRET", "REQUESTS_CA_BUNDLE"}
AT_ONCE = 1_000  # records changed by one call of the controls


@contextmanager
def simulator(accounts: int, contacts: int) -> Iterator[Org]:
    """An org with so many records, until the context ends."""
    size = ["--accounts", str(accounts), "--contacts", str(contacts)]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "sync", "simulator", "--port", "0", *size],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        settings: dict[str, str] = {}
        token = ""
        try:
            for line in process.stdout:
                if found := re.search(r"X-Simulator-Token: ([\w-]+)", line):
                    token = found[1]
                if found := re.search(r"export (\w+)='(.*)'", line):
                    settings[found[1]] = found[2]
                if set(settings) >= NEEDED:
                    break
            else:
                raise RuntimeError("the simulator ended before it could be used")
            org = Org(settings, token)
            with org.http:
                org.control("options", limit_max=10_000_000)  # one benchmark makes the calls of many days
                yield org
        finally:
            process.terminate()


@dataclass
class Org:
    """A running simulator, known by the settings to use it with."""

    settings: dict[str, str]
    token: str = ""  # of its controls

    @property
    def url(self) -> str:
        return self.settings["SALESFORCE_LOGIN_URL"]

    @property
    def data(self) -> str:
        """Where the resources of the API are."""
        return f"{self.url}/services/data/v{VERSION}"

    @cached_property
    def http(self) -> requests.Session:
        """A plain session: gzip accepted, connections kept, the simulator's authority trusted."""
        session = requests.Session()
        session.trust_env = False  # a REQUESTS_CA_BUNDLE of this machine would go first
        session.verify = self.settings["REQUESTS_CA_BUNDLE"]
        return session

    # ── its controls ──

    @property
    def controls(self) -> dict[str, str]:
        return {"X-Simulator-Token": self.token}

    def control(self, action: str, **given: Any) -> Any:
        """Do something to the org."""
        answer = self.http.post(
            f"{self.url}/simulator/{action}", json=given, headers=self.controls, timeout=600
        )
        return result(answer)

    def look(self, what: str, **given: Any) -> Any:
        """Ask something about the org."""
        return result(
            self.http.get(f"{self.url}/simulator/{what}", params=given, headers=self.controls, timeout=600)
        )

    def change_a_tenth(self, name: str, ago: timedelta = timedelta()) -> int:
        """Give every tenth living record another value, stamped now or so long ago; how many."""
        ids = self.look("ids", object=name, deleted="false")[::10]
        field, value = {"Contact": ("Title", "Promoted"), "Account": ("Site", "Moved")}[name]
        many = "update_many" in self.look("")["POST"]
        moment = self.look("clock")["now"]  # another value each time
        stamp = {"stamp": (datetime.fromisoformat(moment) - ago).isoformat()} if ago else {}
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            record = {field: f"{value} {moment[:19]}"}
            if many:
                self.control("update_many", ids=some, record=record, **stamp)
                continue
            for id_ in some:
                self.control("update", id=id_, record=record, **stamp)
        return len(ids)

    # ── its API ──

    def log_in(self) -> dict[str, str]:
        """Begin a session; the headers of its calls."""
        answer = self.http.post(
            f"{self.url}/services/oauth2/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.settings["SALESFORCE_CLIENT_ID"],
                "client_secret": self.settings["SALESFORCE_CLIENT_SECRET"],
            },
            timeout=600,
        )
        answer.raise_for_status()
        return {
            "Authorization": f"Bearer {answer.json()['access_token']}",
            "Sforce-Query-Options": "batchSize=2000",
        }

    def projection(self, name: str) -> Projection:
        """The fields that the product selects of an object."""
        answer = self.http.get(
            f"{self.data}/sobjects/{name}/describe", headers=self.log_in(), timeout=600
        ).json()
        return project(CATALOGUE[name], [DescribedField.of(field) for field in answer["fields"]])


def result(answer: requests.Response) -> Any:
    """What a control gave; HTTPError with its reason where it refused."""
    if answer.status_code != 200:
        raise requests.HTTPError(f"the simulator says {answer.status_code}: {answer.text[:200]}")
    return answer.json()["result"] if "result" in answer.json() else answer.json()
