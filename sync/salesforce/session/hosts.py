"""Hosts that may be sent a secret: the login host, Salesforce's domains, and private ones that are named."""

from __future__ import annotations

import re
from collections.abc import Collection

# Salesforce's own domains, those of Government Cloud and of Alibaba Cloud in China included.
DOMAINS = (".salesforce.com", ".salesforce.mil", ".sfcrmproducts.cn")
# A host as a name or an IPv4 address, and its port; no user, no path, no trailing dot, no IPv6.
HOST = re.compile(r"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
LONGEST = 300


def host_of(url: object) -> str:
    """The host of an https URL that names nothing else, with its port unless that is 443; else ValueError."""
    text = url.lower() if isinstance(url, str) and len(url) <= LONGEST and url.isascii() else ""
    found = HOST.fullmatch(text.removeprefix("https://").removesuffix("/"))
    if not text.startswith("https://") or found is None:
        raise ValueError("no https URL of a host and nothing else")
    name, port = found.groups()
    return name if port in (None, "443") else f"{name}:{port}"


def target_of(location: object) -> str:
    """The host that an https URL leads to, as `host_of` gives it, whatever follows it; else ValueError."""
    text = location if isinstance(location, str) else ""
    scheme, separator, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return host_of(f"{scheme}{separator}{authority}")


def trusted(host: str, login_url: str, private: Collection[str]) -> bool:
    """Whether a host (with its port, where it has one) may be sent the token of this login."""
    if host == login_url.removeprefix("https://").removesuffix(":443").lower():
        return True
    if host in private or host.split(":")[0] in private:
        return True
    return ":" not in host and host.endswith(DOMAINS)
