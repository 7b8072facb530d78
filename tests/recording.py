"""Records the cassettes that `tests/salesforce/test_cassettes.py` replays without a network.

    python -m tests.recording           tests/cassettes/simulator, from a simulator of its own
    python -m tests.recording --real    tests/cassettes/real, from the org that the SALESFORCE_* settings name

A cassette is one HTTPS conversation of the product. Against the simulator: every login flow with a describe, the
first load of a small org, and one window. Against a real org little is asked and nothing written: one login by
the flow the settings make with a describe, and `window`, which reads per object the describe and at most ten
records changed within the last hour. (The pipeline reads everything of a window, so it does not take part; an
hour without changes gives an empty page, which is a valid recording. No database is needed.)

Nothing reaches the disk but through `serialize`. It lets through what is named here and replaces the rest:
- always: of a login form only the grant type, of a token answer no token, signature or identity; headers that
  the product reads, so no Authorization and no cookie; example hosts for the hosts that were asked;
- with care, for a real org and for every `window`: of a describe the standard fields and the attributes in
  `DESCRIBED`; of a record its booleans, its moments, and stand-ins for its Ids; every other value that is not null
  becomes a placeholder of its type. An answer for which there is no rule is refused.
What stays of a real org: which standard fields its integration user sees, how many records changed, when, and
the share of API calls used. A cassette that still holds a value of the login settings is never written.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import msgspec
import vcr  # type: ignore[import-untyped]  # published without type information
import yaml
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import checksum, project
from sync.cli.wiring import OBJECT_CHOICES
from sync.config import flows
from sync.config.settings import Settings, load_settings, settings_from
from sync.demo import embedded
from sync.logs import logger
from sync.postgres import tables
from sync.replication import pipeline
from sync.replication.runs import SyncContext
from sync.salesforce import soql
from sync.salesforce.session.session import Session
from sync.simulator import FLOWS, Simulator
from sync.simulator.org import Org
from sync.window import Scope
from tests.support.world import LONG_AGO

CASSETTES = Path(__file__).parent / "cassettes"
HOUR, FEW = timedelta(hours=1), 10
# What is recorded, whatever else a team has declared.
OBJECTS = ("Account", "Contact")
# requests reads these by itself and fails where the file is missing; the simulator brings its own authority.
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
NO_DATABASE = "postgresql://nobody@localhost/none"

LABEL = """\
# Recorded against {origin} with `{command}`, which also records it anew.
# Hosts, tokens, secrets and identities are placeholders; tests/recording.py says what was replaced.
"""
ORIGINS = {
    "simulator": ("this project's simulator", "python -m tests.recording"),
    "real": ("a real org", "python -m tests.recording --real"),
}

# What is let through.
REQUEST_HEADERS = {"accept", "content-type", "sforce-query-options", "sforce-call-options"}
RESPONSE_HEADERS = {"cache-control", "content-type", "date", "last-modified", "sforce-limit-info", "vary"}
TOKEN_FIELDS = {"instance_url", "issued_at", "scope", "token_format", "token_type"}
DESCRIBE_KEYS = {"custom", "keyPrefix", "name", "queryable", "replicateable", "retrieveable"}
DESCRIBED = {
    *("name", "type", "soapType", "custom", "length", "byteLength", "precision", "scale", "digits"),
    *("nillable", "calculated", "compoundFieldName", "referenceTo", "relationshipName", "filterable"),
}

# What stands for the rest, in a form that programs read like the real thing.
SCRUBBED = "SCRUBBED"
INSTANCE_HOST, LOGIN_HOST = "acme.my.salesforce.example", "login.salesforce.example"
TOKEN_ANSWER = {
    "access_token": f"00D000000000000!{SCRUBBED}",
    "signature": "A" * 43 + "=",
    "id": f"https://{LOGIN_HOST}/id/00D000000000000EAA/005000000000000AAA",
}
FORM = {"username": "scrubbed@example.com"}
VALUES: dict[str, Any] = {
    "email": "person@example.com",
    "phone": "+1 415 555 0100",
    "url": "https://www.example.com",
    "date": "2000-01-01",
    "time": "12:00:00.000Z",
    "int": 1,
    "long": 1,
    "double": Decimal("1.5"),
    "currency": Decimal("1.5"),
    "percent": Decimal("1.5"),
}

DECODER = msgspec.json.Decoder(float_hook=Decimal)
ENCODER = msgspec.json.Encoder(decimal_format="number")

# ── the conversations ─────────────────────────────────────────────────────────────────────────────────


def record_simulator(folder: Path, database: str) -> None:
    """All cassettes of a small simulated org; `database` is the URL of a migrated, empty one."""
    for flow in FLOWS:
        with Simulator(credentials_seed=1) as simulator:
            record(folder / f"login-{flow}.yaml", of(simulator, flow), log_in)
    with Simulator(credentials_seed=1) as simulator:
        populate(simulator.org, LONG_AGO)
        settings = of(simulator, "client_credentials", database)
        record(folder / "first-load.yaml", settings, first_load)
    with Simulator(credentials_seed=1) as simulator:
        populate(simulator.org, simulator.clock.now())
        record(folder / "window.yaml", of(simulator, "client_credentials"), window, careful=True)


def record_real(folder: Path) -> None:
    """The careful cassettes of the org that the environment's settings name."""
    os.environ.setdefault("DATABASE_URL", NO_DATABASE)
    settings = load_settings(OBJECT_CHOICES)
    record(folder / f"login-{settings.flow}.yaml", settings, log_in, careful=True, origin="real")
    record(folder / "window.yaml", settings, window, careful=True, origin="real")


def of(simulator: Simulator, flow: str, database: str = NO_DATABASE) -> Settings:
    chosen = {"DATABASE_URL": database, "SYNC_OBJECTS": ",".join(OBJECTS)}
    return settings_from(chosen | simulator.environment(flow), OBJECT_CHOICES)


def log_in(session: Session) -> None:
    """A login, and one call that its token opens."""
    session.login()
    session.describe(OBJECTS[0])


def first_load(session: Session) -> None:
    """One pass over a never read org.

    One object after the other: while one thread connects, vcr lets the calls of the others pass unseen.
    """
    engine = tables.engine(session.settings.postgres, owner="recording")
    try:
        for name in OBJECTS:
            pipeline.sync_object(SyncContext(session.settings, session, engine, "recording", "run"), name)
    finally:
        engine.dispose()


def window(session: Session) -> None:
    """A few of the last hour's changes; standard fields only, since the names of others are the org's own."""
    for name in OBJECTS:
        described, now = session.describe(name)
        query = soql.select(project(CATALOGUE[name], described, "none"), Scope(now - HOUR), None)
        session.query(f"{query} LIMIT {FEW}")


def populate(org: Org, stamp: datetime) -> None:
    """Three accounts and five contacts, one of them deleted, with values that are easily spoiled."""
    acme = {
        "Name": "Acme",
        "Phone": "(415) 555-0132",
        "Website": "https://www.Acme.example/about",
        "BillingPostalCode": "01234",
        "AnnualRevenue": 400_000_000,
    }
    parent = org.create("Account", acme, stamp)
    roehren = {"Name": "Łódź Röhren", "ParentId": parent, "BillingCity": "Łódź"}
    child, _ = org.create_many("Account", [roehren, {"Name": "NA", "Description": "one\nand two"}], stamp)
    people: list[dict[str, Any]] = [
        {"FirstName": "Ann", "LastName": "O'Neil", "Email": "Ann@ACME.example", "AccountId": parent},
        {"LastName": "Žižek", "Phone": "+48 42 555 01 32", "Birthdate": "1970-02-28", "AccountId": child},
        {"FirstName": "NULL", "LastName": "null", "Description": 'tab\tquote"back\\slash'},
        {"LastName": "Loose 👩‍🚀", "MobilePhone": "415-555-0177", "HasOptedOutOfEmail": True},
        {"FirstName": "Gone", "LastName": "Away", "Email": "gone@acme.example", "AccountId": parent},
    ]
    org.delete(org.create_many("Contact", people, stamp)[-1], stamp + timedelta(minutes=5))


# ── recording one ─────────────────────────────────────────────────────────────────────────────────────


def record(
    path: Path,
    settings: Settings,
    talk: Callable[[Session], None],
    *,
    careful: bool = False,
    origin: str = "simulator",
) -> None:
    """Write one conversation to `path`, in place of the one there; a failed one leaves that as it was."""
    recorder = vcr.VCR(decode_compressed_response=True, record_on_exception=False)
    write = partial(serialize, settings=settings, careful=careful, origin=origin)
    recorder.register_serializer("scrubbed", SimpleNamespace(serialize=write, deserialize=yaml.safe_load))
    with recorder.use_cassette(path, serializer="scrubbed", record_mode="all", drop_unused_requests=True):
        talk(Session(settings))


def serialize(conversation: Mapping[str, Any], *, settings: Settings, careful: bool, origin: str) -> str:
    """The text of a cassette; RuntimeError where it would give away a login setting or a host."""
    interactions = conversation["interactions"]
    stand_ins = Ids()
    types = dict(types_by_object(interactions))
    scrubbed = [
        {
            "request": scrub_request(each["request"]),
            "response": scrub_response(each, types if careful else None, stand_ins),
        }
        for each in interactions
    ]
    refuse_secrets(scrubbed, settings)
    text = yaml.dump(
        {"interactions": scrubbed, "version": 1}, Dumper=Dumper, allow_unicode=True, width=10_000
    )
    hosts = example_hosts(interactions, settings)
    for host in sorted(hosts, key=len, reverse=True):
        text = text.replace(host, hosts[host])
    named, command = ORIGINS[origin]
    return LABEL.format(origin=named, command=command) + text


def refuse_secrets(interactions: Sequence[Any], settings: Settings) -> None:
    """RuntimeError naming the login setting that is still in a conversation, plain or escaped."""
    text = "\n".join(
        f"{request['uri']}\n{request['body']}\n{request['headers']}\n"
        f"{response['body']['string']}\n{response['headers']}"
        for request, response in ((each["request"], each["response"]) for each in interactions)
    )
    for name in sorted(frozenset().union(*flows.FLOWS.values(), {"SALESFORCE_SECURITY_TOKEN"})):
        value = getattr(settings, name.lower())
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        lines = [line for line in plain.splitlines() if len(line) >= 8] or [plain]
        escaped = [ENCODER.encode(line).decode()[1:-1] for line in lines]
        if any(line and line in text for line in (*lines, *escaped, *map(quote_plus, lines))):
            raise RuntimeError(f"{name} would be in the cassette: nothing was written")


class Dumper(yaml.SafeDumper):
    """YAML in which text of several lines keeps its lines."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, "|" if "\n" in text else None
    ),
)


def example_hosts(interactions: Sequence[Any], settings: Settings) -> dict[str, str]:
    """The hosts of the conversation → hosts that cannot exist; the instance's, where it is both."""
    hosts = {urlsplit(settings.salesforce_login_url).netloc: LOGIN_HOST}
    for each in interactions:
        if is_token(each):
            answer = DECODER.decode(each["response"]["body"]["string"])
            # The identity names the login host, also where another one was asked.
            hosts.setdefault(urlsplit(answer.get("id", "")).netloc, LOGIN_HOST)
            hosts[urlsplit(answer["instance_url"]).netloc] = INSTANCE_HOST
    hosts.pop("", None)
    return hosts


def is_token(interaction: Any) -> bool:
    return urlsplit(str(interaction["request"]["uri"])).path.endswith("/oauth2/token")


# ── what is let through ───────────────────────────────────────────────────────────────────────────────


def scrub_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request with the headers that matter; of a form, only the grant type is shown."""
    form = parse_qsl(request["body"] or "", keep_blank_values=True)
    body = [(k, v if k == "grant_type" else FORM.get(k, SCRUBBED)) for k, v in form]
    headers = {k: v for k, v in request["headers"].items() if k.lower() in REQUEST_HEADERS}
    return {**request, "headers": headers, "body": urlencode(body) or None}


def scrub_response(
    interaction: Any, types: Mapping[str, Mapping[str, str]] | None, stand_ins: Ids
) -> dict[str, Any]:
    """An answer without secrets; with `types` (the fields' by object) also without anybody's values."""
    response, path = interaction["response"], urlsplit(interaction["request"]["uri"]).path.rstrip("/")
    body = DECODER.decode(response["body"]["string"])
    if is_token(interaction):
        body = {k: v if k in TOKEN_FIELDS else TOKEN_ANSWER.get(k, SCRUBBED) for k, v in body.items()}
    elif types is not None and path.endswith("/describe"):
        fields = [field for field in body["fields"] if not field["custom"]]
        body = {k: v for k, v in body.items() if k in DESCRIBE_KEYS} | {
            "fields": [{k: v for k, v in field.items() if k in DESCRIBED} for field in fields]
        }
    elif types is not None and path.endswith(("/query", "/queryAll")):
        body["records"] = [scrub_record(record, types, stand_ins) for record in body["records"]]
    elif types is not None:
        raise RuntimeError(f"no rule for what may be shown of {path}: nothing was written")
    # A describe has a field a line: all attributes on lines of their own would be 8,000 lines.
    text = laid_out(body, 2 if path.endswith("/describe") else 9)
    headers = {k.lower(): v for k, v in response["headers"].items() if k.lower() in RESPONSE_HEADERS}
    if usage := headers.get("sforce-limit-info"):
        headers["sforce-limit-info"] = [value.split(";")[0] for value in usage]  # an app's name may follow
    return {"status": response["status"], "headers": headers, "body": {"string": text}}


def scrub_record(
    record: Mapping[str, Any], types: Mapping[str, Mapping[str, str]], stand_ins: Ids
) -> dict[str, Any]:
    """A record in which only booleans, nulls and moments are the org's."""
    name = record["attributes"]["type"]
    url = re.sub(r"[^/]+$", lambda found: stand_ins.of(found[0]), record["attributes"]["url"])
    scrubbed: dict[str, Any] = {"attributes": {"type": name, "url": url}}
    for field, value in record.items():
        kind = types[name].get(field, "")
        if value is None or kind in ("boolean", "datetime"):
            scrubbed[field] = value
        elif kind in ("id", "reference"):
            scrubbed[field] = stand_ins.of(value)
        elif field != "attributes":
            scrubbed[field] = VALUES.get(kind, "text")
    return scrubbed


class Ids:
    """Stand-ins for record Ids: the same for the same, of the same object, with a right checksum."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, id_: str) -> str:
        if id_ not in self._known:
            id15 = f"{id_[:3]}{len(self._known) + 1:012d}"
            self._known[id_] = id15 + checksum(id15)
        return self._known[id_]


def types_by_object(interactions: Sequence[Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Object and type of each of its fields, from the conversation's describes."""
    for each in interactions:
        if urlsplit(each["request"]["uri"]).path.endswith("/describe"):
            described = DECODER.decode(each["response"]["body"]["string"])
            yield described["name"], {field["name"]: field["type"] for field in described["fields"]}


def laid_out(value: Any, depth: int, margin: str = "") -> str:
    """JSON with every digit kept: down to `depth` an entry a line, what lies deeper on one line."""
    if not value or not depth or not isinstance(value, dict | list):
        return msgspec.json.format(ENCODER.encode(value), indent=0).decode()
    inner = margin + " "
    if isinstance(value, dict):
        entries = [f'"{key}": {laid_out(each, depth - 1, inner)}' for key, each in value.items()]
        opening, closing = "{}"
    else:
        entries = [laid_out(each, depth - 1, inner) for each in value]
        opening, closing = "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(entries) + f"\n{margin}{closing}"


# ── the command ───────────────────────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str] | None = None, folder: Path = CASSETTES) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.recording", description="Records the cassettes anew."
    )
    parser.add_argument("--real", action="store_true", help="from the org of the SALESFORCE_* settings")
    origin = "real" if parser.parse_args(arguments).real else "simulator"
    logger.setup("error", "logfmt")
    if origin == "real":
        record_real(folder / origin)
    else:
        for name in BUNDLES:
            os.environ.pop(name, None)
        with embedded.postgres() as url:
            engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
            embedded.migrate(engine)
            record_simulator(folder / origin, url)
    for path in sorted((folder / origin).glob("*.yaml")):
        print(f"{path.relative_to(folder)}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
