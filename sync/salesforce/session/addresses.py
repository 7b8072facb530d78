"""Where the token may be sent: trusted hosts, and paths of the API on them."""

from __future__ import annotations

import re
from collections.abc import Collection

from sync.salesforce.session.limits import clip

# Salesforce's own domains, including Government Cloud and Alibaba Cloud in China.
DOMAINS = (".salesforce.com", ".salesforce.mil", ".sfcrmproducts.cn")
# A host as a name or an IPv4 address, and its port; no user, no path, no trailing dot, no IPv6.
HOST = re.compile(r"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
LONGEST = 300


def host_of(url: object) -> str:
    """Return the host of an https URL without a path, with its port unless that is 443; raise ValueError
    otherwise."""
    text = url.lower() if isinstance(url, str) and len(url) <= LONGEST and url.isascii() else ""
    found = HOST.fullmatch(text.removeprefix("https://").removesuffix("/"))
    if not text.startswith("https://") or found is None:
        raise ValueError("not an https URL that names only a host")
    name, port = found.groups()
    return name if port in (None, "443") else f"{name}:{port}"


def target_of(location: object) -> str:
    """Return the host of an https URL with any path, as `host_of`; raise ValueError otherwise."""
    text = location if isinstance(location, str) else ""
    scheme, separator, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return host_of(f"{scheme}{separator}{authority}")


def is_trusted(host: str, login_url: str, private: Collection[str]) -> bool:
    """Return whether a host (with its port, if any) may receive the token of this login."""
    if host == login_url.removeprefix("https://").removesuffix(":443").lower():
        return True
    if host in private or host.split(":")[0] in private:
        return True
    return ":" not in host and host.endswith(DOMAINS)


USERINFO = "/services/oauth2/userinfo"

# The characters of Salesforce's own URLs: locators of letters, digits and hyphens in the path, base64 in the
# query. No escapes in the path: a server on the way may decode %2e%2e and %2f to dots and slashes.
PATH = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+/?")
QUERY = re.compile(r"(?:[A-Za-z0-9_.~!$&'()*+,;:=/?-]|%[0-9A-Fa-f]{2})*")
# Salesforce accepts 16,384 bytes for a URL with its headers.
LONGEST_PATH = 16_000
# An Id of 15 or 18 characters.
ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
JOB = re.compile(rf"/services/data/v([0-9]{{2,3}}\.0)/jobs/query/{ID.pattern}")


def resource_path(text: object, version: str, host: str = "") -> str:
    """Return the path, with its query, of a resource of the pinned API version on the instance.

    `text` is that path, or an https URL of `host` (with its port, if any). Raises ValueError for anything
    else: another host, another version, and all that a URL parser could read as one.
    """
    path = text if isinstance(text, str) else ""
    if host:
        path = path.removeprefix(f"https://{host}")
    if len(path) > LONGEST_PATH or not path.startswith(f"/services/data/v{version}/"):
        raise path_error(text, version)
    route, _, query = path.partition("?")
    segments = route.split("/")
    if not PATH.fullmatch(route) or not QUERY.fullmatch(query) or ".." in path or "." in segments:
        raise path_error(text, version)
    return path


def path_error(text: object, version: str) -> ValueError:
    """Return the error for a path that is refused."""
    return ValueError(
        f"{clip(ascii(text), 200)} is not a path below /services/data/v{version}/ of this instance, "
        "so it was not requested"
    )


def job_version(text: str) -> str:
    """Return the API version in the path of a Bulk job; raise ValueError for any other text."""
    found = JOB.fullmatch(text)
    if found is None:
        raise ValueError(f"{clip(ascii(text), 200)} is not the path of a Bulk job")
    return found[1]


def record_id(value: object) -> str:
    """Return an Id of 15 or 18 letters and digits; raise ValueError for anything else."""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise ValueError(f"{clip(ascii(value), 40)} is not an Id")
    return value
