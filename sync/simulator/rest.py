"""The data API under /services/data: versions, limits, describes, queries, records, replication."""

import re
from collections.abc import Callable
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import msgspec

from sync.simulator import ids, replication
from sync.simulator.objects import describe
from sync.simulator.objects.schema import SObject
from sync.simulator.org import Org
from sync.simulator.queries import BadLocator, Distortion, ForeignSession, Page, Queries
from sync.simulator.soql.errors import SoqlError
from sync.simulator.wire import Answer, Call, Refusal, error, json_answer, not_found, refuse

_SEASONS = ("Spring", "Summer", "Winter")
_BATCH = re.compile(r"\s*batchSize\s*=\s*(\d{1,9})\s*", re.IGNORECASE)
_FROM = re.compile(r"\bfrom\s+(\w+)", re.IGNORECASE)
MAX_COLLECTION = 2000


def queried_object(soql: str) -> str | None:
    """The object a query names, for the request log; good enough without parsing."""
    found = _FROM.search(soql)
    return found[1] if found else None


class Rest:
    """One method per resource; each takes the call and gives the answer, or raises Refusal."""

    def __init__(self, org: Org, queries: Queries, api_calls: Callable[[], int]) -> None:
        self._org = org
        self._queries = queries
        self._api_calls = api_calls

    # --- the service itself

    def versions(self, _call: Call) -> Answer:
        first, last = self._org.options.api_versions
        return json_answer(
            [
                {"label": _label(number), "url": f"/services/data/v{number}.0", "version": f"{number}.0"}
                for number in range(first, last + 1)
            ]
        )

    def resources(self, call: Call) -> Answer:
        base = f"/services/data/v{call.version}"
        names = ("composite", "jobs", "limits", "query", "queryAll", "sobjects")
        return json_answer({name: f"{base}/{name}" for name in names})

    def check_version(self, version: str) -> None:
        """Refuse a version that was retired (410) or never existed (404)."""
        first, last = self._org.options.api_versions
        number, _, minor = version.partition(".")
        if not number.isdecimal() or minor != "0" or not 1 <= int(number) <= last:
            raise Refusal(not_found())
        if int(number) < first:
            raise refuse(
                410, "GONE", f"API version {version} is retired; the oldest version served is {first}.0."
            )

    def limits(self, _call: Call) -> Answer:
        options = self._org.options
        if not options.limits_resource:
            raise refuse(403, "API_DISABLED_FOR_ORG", "limits resource is not enabled")
        return json_answer(
            {
                "DailyApiRequests": _limit(options.limit_max, self.usage()),
                "DailyAsyncApexExecutions": {"Max": 250000, "Remaining": 250000},
                "DailyBulkApiBatches": {"Max": 15000, "Remaining": 15000},
                "DailyBulkV2QueryFileStorageMB": _limit(
                    options.bulk_storage_max_kb // 1024, self._org.jobs.stored_today() // 1024
                ),
                "DailyBulkV2QueryJobs": _limit(options.bulk_jobs_max, self._org.jobs.made_today()),
                "DailyStreamingApiEvents": {"Max": 10000, "Remaining": 10000},
                "DataStorageMB": {"Max": 1073, "Remaining": 1000},
                "FileStorageMB": {"Max": 1073, "Remaining": 1073},
            }
        )

    def usage(self) -> int:
        return self._org.options.limit_used + self._api_calls()

    def limit_info(self) -> str:
        options = self._org.options
        info = f"api-usage={self.usage()}/{options.limit_max}"
        return info + (f"; per-app-api-usage={options.per_app_info}" if options.per_app_info else "")

    # --- objects

    def describe_global(self, call: Call) -> Answer:
        objects = [describe.summary(each, call.version) for each in self._org.schema.visible_objects()]
        return json_answer({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects})

    def _sobject(self, call: Call) -> SObject:
        sobject = self._org.schema.visible_object(call.groups["sobject"])
        if sobject is None:
            raise Refusal(not_found())
        return sobject

    def basic(self, call: Call) -> Answer:
        summary = describe.summary(self._sobject(call), call.version)
        return json_answer({"objectDescribe": summary, "recentItems": []})

    def describe(self, call: Call) -> Answer:
        """An object's describe, or 304 when it did not change since the time the caller names."""
        with self._org.lock:
            sobject = self._sobject(call)
            changed = self._org.described_at
            since = call.headers.get("if-modified-since")
            headers = [("Last-Modified", format_datetime(changed, usegmt=True))]
            if since is not None and _not_after(changed.timestamp(), since):
                return Answer(304, b"", headers=headers)
            answer = json_answer(describe.full(self._org.schema, sobject, call.version))
            answer.headers += headers
            return answer

    def updated(self, call: Call) -> Answer:
        with self._org.lock:
            return json_answer(replication.updated(self._org, self._replicated(call), call.params))

    def deleted(self, call: Call) -> Answer:
        with self._org.lock:
            return json_answer(replication.deleted(self._org, self._replicated(call), call.params))

    def _replicated(self, call: Call) -> SObject:
        sobject = self._sobject(call)
        if not sobject.replicateable:
            raise refuse(400, "INVALID_TYPE_FOR_OPERATION", f"{sobject.name} is not replicateable")
        return sobject

    # --- queries

    def query(self, call: Call, distort: Distortion) -> Answer:
        soql = call.params.get("q", "")
        batch = _BATCH.fullmatch(call.headers.get("sforce-query-options", ""))
        try:
            page = self._queries.query(
                soql,
                deleted_too=call.groups["all"].lower() == "all",
                session=call.session,
                version=call.version,
                batch=int(batch[1]) if batch else None,
                distort=distort,
            )
        except SoqlError as problem:
            return error(400, problem.code, problem.text(soql))
        return _page_answer(page)

    def page(self, call: Call, distort: Distortion) -> Answer:
        try:
            page = self._queries.more(
                call.groups["locator"],
                int(call.groups["offset"]),
                session=call.session,
                version=call.version,
                distort=distort,
            )
        except SoqlError as problem:
            return error(400, problem.code, problem.message)
        except BadLocator:
            return error(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        except ForeignSession:
            if self._org.options.locator_refusal == "INVALID_SESSION_ID":
                return error(401, "INVALID_SESSION_ID", "Session expired or invalid")
            return error(400, self._org.options.locator_refusal, "invalid query locator")
        return _page_answer(page)

    # --- single records

    def record(self, call: Call) -> Answer:
        with self._org.lock:
            sobject = self._sobject(call)
            record_id = ids.normalize(call.groups["id"])
            if record_id is None or not record_id.startswith(sobject.key_prefix):
                raise Refusal(not_found())
            wanted = call.params.get("fields")
            names = (
                _names(wanted)
                if wanted
                else [each.name for each in self._org.schema.visible_fields(sobject) if each.selectable]
            )
            self._check_fields(sobject, names)
            records = self._retrieve(sobject, names, [record_id], call)
            if not records:
                raise Refusal(not_found())
            return json_answer(records[0])

    def retrieve(self, call: Call) -> Answer:
        """Up to 2,000 records by Id in the order asked for, null for those that are not there."""
        try:
            wanted = msgspec.json.decode(call.body, type=_Collection)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise refuse(400, "JSON_PARSER_ERROR", "The HTTP entity body must hold ids and fields") from None
        if len(wanted.ids) > MAX_COLLECTION:
            raise refuse(
                400, "EXCEEDED_ID_LIMIT", f"record limit reached. cannot retrieve more than {MAX_COLLECTION}"
            )
        with self._org.lock:
            sobject = self._sobject(call)
            self._check_fields(sobject, wanted.fields)
            known = [ids.normalize(each) for each in wanted.ids]
            if any(each is None for each in known):
                raise refuse(400, "MALFORMED_ID", "id value of incorrect type", ["Id"])
            found = self._retrieve(sobject, ["Id", *wanted.fields], [str(each) for each in known], call)
            by_id = {record.Id: record for record in found}
            return json_answer([by_id.get(each) for each in known])

    def _check_fields(self, sobject: SObject, names: list[str]) -> None:
        for name in names:
            if "." not in name and self._org.schema.visible_field(sobject, name) is None:
                raise refuse(
                    400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {sobject.name}"
                )

    def _retrieve(self, sobject: SObject, names: list[str], record_ids: list[str], call: Call) -> list[Any]:
        unique = list({name.casefold(): name for name in names}.values())
        records: list[Any] = []
        for at in range(0, len(record_ids), 500):
            listed = ", ".join(f"'{each}'" for each in record_ids[at : at + 500])
            soql = f"SELECT {', '.join(unique)} FROM {sobject.name} WHERE Id IN ({listed})"
            try:
                records += self._queries.read(soql, call.version)
            except SoqlError as problem:
                raise refuse(400, problem.code, problem.text(soql)) from None
        return records


class _Collection(msgspec.Struct):
    ids: list[str]
    fields: list[str]


def _limit(most: int, used: int) -> dict[str, int]:
    return {"Max": most, "Remaining": max(0, most - used)}


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name]


def _page_answer(page: Page) -> Answer:
    body: dict[str, Any] = {"totalSize": page.total, "done": page.done}
    if page.next_path is not None:
        body["nextRecordsUrl"] = page.next_path
    body["records"] = page.records
    return json_answer(body)


def _label(number: int) -> str:
    """Releases come three a year; 58 was Summer '23."""
    season, year = _SEASONS[number % 3], 4 + (number + 1) // 3
    return f"{season} '{year:02}"


def _not_after(changed: float, since: str) -> bool:
    try:
        return changed <= parsedate_to_datetime(since).timestamp()
    except ValueError:
        return False
