"""Paths on the instance: what an answer or the database names is checked here before the token goes there."""

from __future__ import annotations

import re

from sync.salesforce.session.limits import clip

USERINFO = "/services/oauth2/userinfo"

# What Salesforce's own URLs have: locators of letters, digits and hyphens in the path, base64 in the query.
# Nothing is escaped in the path: %2e%2e and %2f would be dots and slashes for some server on the way.
PATH = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+/?")
QUERY = re.compile(r"(?:[A-Za-z0-9_.~!$&'()*+,;:=/?-]|%[0-9A-Fa-f]{2})*")
# A URL with its headers may have 16,384 bytes.
LONGEST = 16_000
# An Id of 15 or 18 characters.
ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
JOB = re.compile(rf"/services/data/v([0-9]{{2,3}}\.0)/jobs/query/{ID.pattern}")


def resource_path(text: object, version: str, host: str = "") -> str:
    """The path, with its query, of a resource of the pinned API version on the instance.

    `text` is that path, or an https URL that names `host` (with its port, where it has one). ValueError for
    anything else: another host, another version, and all that some URL parser could take for one.
    """
    path = text if isinstance(text, str) else ""
    if host:
        path = path.removeprefix(f"https://{host}")
    if len(path) > LONGEST or not path.startswith(f"/services/data/v{version}/"):
        raise foreign(text, version)
    route, _, query = path.partition("?")
    segments = route.split("/")
    if not PATH.fullmatch(route) or not QUERY.fullmatch(query) or ".." in path or "." in segments:
        raise foreign(text, version)
    return path


def foreign(text: object, version: str) -> ValueError:
    return ValueError(
        f"{clip(ascii(text), 200)} is no path below /services/data/v{version}/ of this instance, "
        "so it was not asked for"
    )


def job_version(text: str) -> str:
    """The API version of a Bulk job's path; ValueError for what is no such path of any version."""
    found = JOB.fullmatch(text)
    if found is None:
        raise ValueError(f"{clip(ascii(text), 200)} is no path of a Bulk job")
    return found[1]


def record_id(value: object) -> str:
    """An Id of 15 or 18 letters and digits; ValueError for anything else."""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise ValueError(f"{clip(ascii(value), 40)} is no Id")
    return value
