"""The facts about login, the service, queries, describes, limits and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sync.catalogue.mapping import is_id
from sync.config.settings import Settings
from sync.errors import LoginError, SyncError
from sync.salesforce import soql
from sync.salesforce.session.http import Http
from sync.salesforce.session.login import TOKEN_PATH, token_form
from tests.acceptance.client import Client, codes, log_in, ok, said
from tests.acceptance.findings import Findings, describe
from tests.acceptance.records import NAMES, TRICKY, Marked, kept
from tests.acceptance.story import moment

TOKEN_FIELDS = {"access_token", "instance_url", "id", "issued_at", "token_type"}
FIELD_KEYS = {
    *("name", "type", "length", "precision", "scale", "digits", "nillable", "calculated", "custom"),
    *("compoundFieldName", "referenceTo", "relationshipName", "filterable"),
}
FLOWS = {"client_credentials": "A.3.1", "jwt": "A.4.1", "password": "A.5.1"}
GROUPS = {"month": "B.3.12", "day": "B.3.13", "hour": "B.3.14"}
LATEST = 99  # a version that does not exist yet


def probe_logins(client: Client, logins: Sequence[Settings], findings: Findings) -> None:
    """Log in by each flow that is set, and look at the answers; none of them is kept or shown."""
    for settings in logins:
        fact = FLOWS[settings.flow]
        with findings.probing(fact, "A.2.1", "A.2.2"):
            try:
                log_in(settings)
            except (LoginError, SyncError) as error:
                findings.check(fact, holds=False, note=describe(error))
                continue
            findings.check(fact, holds=True)
            http, form = Http(settings.requests_ca_bundle), token_form(settings)
            body = ok(http.request("POST", settings.salesforce_login_url + TOKEN_PATH, data=form))
            missing = TOKEN_FIELDS - body.keys()
            findings.check("A.2.1", not missing, f"without {', '.join(sorted(missing))}" if missing else "")
            is_text = isinstance(body.get("issued_at"), str) and body["issued_at"].isdigit()
            findings.check("A.2.2", is_text and "expires_in" not in body)
            if settings.flow == "client_credentials":
                findings.check("A.3.2", "refresh_token" not in body)
    unset = [fact for flow, fact in FLOWS.items() if flow not in {each.flow for each in logins}]
    findings.not_tried(*unset, "A.3.2", why="the flow is not set; --login names more settings")
    with findings.probing("A.9.1", "A.9.2", "A.10.1", "A.10.2"):
        answer = client.call("GET", "limits", authorization="Bearer 00D000000000000!unknown")
        findings.check(
            "A.9.1", answer.status_code == 401 and codes(answer) == ["INVALID_SESSION_ID"], said(answer)
        )
        answer = client.call("GET", "limits", authorization="Nonsense x")
        findings.check(
            "A.9.2", answer.status_code == 401 and codes(answer) == ["INVALID_AUTH_HEADER"], said(answer)
        )
        body = ok(client.get("/services/oauth2/userinfo"))
        findings.check("A.10.1", str(body.get("organization_id")).startswith("00D"))
        answer = client.call("GET", "/services/oauth2/userinfo", authorization="Bearer unknown")
        is_json = answer.content[:1] in (b"{", b"[")
        findings.check("A.10.2", answer.status_code == 403 and not is_json, said(answer))


def probe_service(client: Client, findings: Findings) -> None:
    """Versions, headers, limits and the answers to mistakes."""
    with findings.probing("B.1.1", "B.1.2", "B.1.3"):
        answer = client.call("GET", "/services/data/", authorization="")
        versions = [float(each["version"]) for each in ok(answer)]
        findings.check("B.1.1", versions == sorted(versions), f"{versions[0]} to {versions[-1]}")
        pinned = client.settings.salesforce_api_version
        findings.check("B.1.3", float(pinned) in versions, pinned)
        answer = client.get(f"/services/data/v{LATEST}.0/limits")
        findings.check("B.1.2", answer.status_code == 404 and codes(answer) == ["NOT_FOUND"], said(answer))
    with findings.probing("B.2.1", "B.2.2", "B.2.3"):
        answers = [
            client.get("sobjects/Contact/describe"),
            client.get("query", q="SELECT COUNT() FROM Contact"),
        ]
        findings.check("B.2.1", all("Date" in each.headers for each in answers))
        findings.check("B.2.2", all("Sforce-Limit-Info" in each.headers for each in answers))
        encoding = answers[0].headers.get("Content-Encoding", "none")
        findings.check("B.2.3", encoding == "gzip", encoding)
    with findings.probing("B.9.1", "B.9.2"):
        body = ok(client.get("limits"))
        for fact, name in (("B.9.1", "DailyApiRequests"), ("B.9.2", "DailyBulkV2QueryJobs")):
            findings.check(fact, {"Max", "Remaining"} <= body.get(name, {}).keys())
    with findings.probing("C.1", "C.2", "C.3", "C.4"):
        for fact, query, code in (
            ("C.1", "SELECT NoSuchField FROM Contact", "INVALID_FIELD"),
            ("C.2", "SELECT Id FROM NoSuchObject", "INVALID_TYPE"),
            ("C.3", "SELECT FROM Contact", "MALFORMED_QUERY"),
        ):
            answer = client.get("queryAll", q=query)
            findings.check(fact, answer.status_code == 400 and codes(answer) == [code], said(answer))
        answer = client.get("sobjects/NoSuchObject/describe")
        findings.check("C.2", answer.status_code == 404, said(answer))
        answer = client.get("query", q=f"SELECT Id FROM Contact WHERE LastName = '{'x' * 17_000}'")
        findings.check("C.4", answer.status_code in (414, 431), said(answer))


def probe_queries(client: Client, marked: Marked, findings: Findings) -> None:
    """What queries of the marked records answer, and the conditions that the product uses."""
    with findings.probing(*(f"B.3.{number}" for number in range(1, 12))):
        first = marked.create("Account", "query 1", Description=TRICKY, Site="")
        second = marked.create("Account", "query 2")
        gone = marked.create("Account", "query 3")
        marked.delete("Account", gone)
        where = f"{NAMES['Account']} LIKE '{marked.name('query')}%'"
        fields = "Id, Site, Description, IsDeleted, SystemModstamp"
        body = ok(client.get("queryAll", q=f"SELECT {fields} FROM Account WHERE {where} ORDER BY Id"))
        records = body["records"]
        found = {record["Id"]: record for record in records}
        shape = {"totalSize", "done", "records"} <= body.keys() and all(
            next(iter(record)) == "attributes" for record in records
        )
        findings.check("B.3.1", shape)
        findings.check("B.3.2", all(is_id(id_) for id_ in found))
        stamps = [record["SystemModstamp"] for record in records]
        findings.check("B.3.3", all(stamp.endswith(".000+0000") and len(stamp) == 28 for stamp in stamps))
        findings.check("B.3.4", "Site" in found[second] and found[second]["Site"] is None)
        findings.check("B.3.5", found[first]["Site"] is None)
        findings.check("B.3.10", gone in found and found[gone]["IsDeleted"] is True)
        how = kept(found[first]["Description"])
        findings.check("B.3.11", how != "changed", how)
        counted = ok(client.get("query", q=f"SELECT COUNT() FROM Account WHERE {where}"))
        findings.check("B.3.6", (counted["totalSize"], counted["records"]) == (2, []))
        conditions(client, findings, where, records)


def conditions(client: Client, findings: Findings, where: str, records: Sequence[Mapping[str, str]]) -> None:
    """Literals of date and time, comparisons of Ids, and the keyset of the two."""
    ids = [record["Id"] for record in records]
    findings.check("B.3.9", ids == sorted(ids), "the order of ORDER BY Id")
    after = client.records(f"SELECT Id FROM Account WHERE {where} AND Id > '{ids[0]}' ORDER BY Id")
    findings.check("B.3.9", [each["Id"] for each in after] == ids[1:], "the order of Id > x")
    keys = sorted((moment(record["SystemModstamp"]), record["Id"]) for record in records)
    literal = soql.datetime_literal(keys[0][0])
    since = client.records(f"SELECT Id FROM Account WHERE {where} AND SystemModstamp >= {literal}")
    findings.check("B.3.7", len(since) == len(ids), "all records since the first stamp")
    keyset = f"(SystemModstamp > {literal} OR (SystemModstamp = {literal} AND Id > '{keys[0][1]}'))"
    rest = client.records(f"SELECT Id FROM Account WHERE {where} AND {keyset} ORDER BY SystemModstamp, Id")
    findings.check("B.3.8", [each["Id"] for each in rest] == [id_ for _, id_ in keys[1:]])


def probe_groups(client: Client, marked: Marked, findings: Findings) -> None:
    """The groups by which verify compares, over the marked records, which are of one or two hours."""
    where = f"{NAMES['Account']} LIKE '{marked.marker}%'"
    with findings.probing(*GROUPS.values()):
        records = client.records(f"SELECT Id, SystemModstamp FROM Account WHERE {where}")
        stamps = {moment(record["SystemModstamp"]).astimezone(UTC) for record in records}
        for part, fact in GROUPS.items():
            answer = client.get("queryAll", q=soql.count_buckets("Account", where, "SystemModstamp", part))
            if not findings.check(fact, answer.status_code == 200, said(answer)):
                continue
            rows = answer.json()["records"]
            groups = {
                tuple(str(value) for name, value in row.items() if name in ("b0", "b1")) for row in rows
            }
            findings.check(fact, groups == {bucket(stamp, part) for stamp in stamps}, f"{len(rows)} groups")


def bucket(at: datetime, part: str) -> tuple[str, ...]:
    """The group that a time belongs to."""
    day = f"{at:%Y-%m-%d}"
    return {"month": (str(at.year), str(at.month)), "day": (day,), "hour": (day, str(at.hour))}[part]


def probe_pages(client: Client, findings: Findings) -> None:
    """Pages of 200 records, which need more than 200 contacts in the org; only numbers are kept of them."""
    facts = ("B.4.1", "B.4.2", "B.4.3", "B.5.1", "B.5.2")
    with findings.probing(*facts, "B.5.3"):
        headers = {"Sforce-Query-Options": "batchSize=200"}
        page = ok(client.get("query", headers, q="SELECT Id FROM Contact ORDER BY Id LIMIT 400"))
        if page["done"]:
            findings.not_tried(*facts, why=f"the org has {len(page['records'])} contacts, not more than 200")
        else:
            findings.check("B.4.1", len(page["records"]) <= 200, f"{len(page['records'])} records")
            address = page["nextRecordsUrl"]
            findings.check("B.4.3", address.startswith(f"{client.base}/"))
            once, again = (ok(client.get(address)) for _ in range(2))
            same = [each["Id"] for each in once["records"]] == [each["Id"] for each in again["records"]]
            findings.check("B.5.1", same)
            findings.check("B.4.2", once["totalSize"] == page["totalSize"])
            other = Client(client.settings, client.stop).token.access
            if other == client.token.access:
                findings.not_tried("B.5.2", why="a second login returns the same token")
            else:
                elsewhere = client.call("GET", address, authorization=f"Bearer {other}")
                findings.check("B.5.2", elsewhere.status_code != 200, said(elsewhere))
        answer = client.get(f"{client.base}/query/0r8000000000000AAA-200")
        locator = [code for code in codes(answer) if "LOCATOR" in code]
        findings.check("B.5.3", answer.status_code == 400 and locator, said(answer))
    findings.not_tried("B.5.4", why="it takes two days")


def probe_describe(client: Client, findings: Findings) -> None:
    """The describes of both objects, and the conditional one."""
    with findings.probing("B.6.1", "B.6.2", "B.6.3", "B.6.4"):
        answer = client.get("sobjects/Contact/describe")
        fields = {each["name"]: each for each in ok(answer)["fields"]}
        missing = sorted(FIELD_KEYS - set.intersection(*(set(each) for each in fields.values())))
        findings.check("B.6.1", not missing, f"without {', '.join(missing)}" if missing else "")
        types = [fields[name]["type"] for name in ("MailingAddress", "Name") if name in fields]
        findings.check("B.6.4", types in (["address", "string"], ["string"]), ", ".join(types))
        modified = answer.headers.get("Last-Modified", "")
        if findings.check("B.6.2", modified):
            answer = client.get("sobjects/Contact/describe", {"If-Modified-Since": modified})
            findings.check("B.6.3", answer.status_code == 304 and not answer.content, said(answer))
