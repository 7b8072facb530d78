"""Bulk API 2.0 query jobs under /services/data/vXX.X/jobs/query."""

import itertools
import re
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from sync.simulator import values
from sync.simulator.bulk.csv_rows import DELIMITERS, LINE_ENDINGS, Dialect
from sync.simulator.bulk.jobs import ABORTED, COMPLETE, ENDED, Job, NoSuchLocator, Page
from sync.simulator.faults.kinds import Effect
from sync.simulator.org import Org
from sync.simulator.soql.errors import SoqlError
from sync.simulator.soql.parse import parse
from sync.simulator.soql.plan import Plan
from sync.simulator.wire import CSV, Answer, Call, Refusal, json_answer, not_found, refuse

OPERATIONS = ("query", "queryAll")
QUERY_JOBS_SINCE, RESULT_PAGES_SINCE = 47, 58
URLS_PER_PAGE = 5
JOBS_PER_PAGE = 1000
# Standard objects whose large queries Salesforce splits by their keys; it does so with all custom objects.
_CHUNKABLE = frozenset(
    {
        *("Account", "Asset", "Campaign", "CampaignMember", "Case", "Contact", "Contract", "Event", "Lead"),
        *("LoginHistory", "Opportunity", "Order", "OrderItem", "Product2", "Task", "User", "WorkOrder"),
    }
)
_STRINGS = re.compile(r"'(?:\\.|[^'\\])*'", re.DOTALL)
_CHILDREN = re.compile(r"(?:\bselect|,)\s*\(\s*select\b", re.IGNORECASE)
_TYPEOF = re.compile(r"\btypeof\b", re.IGNORECASE)
Body = TypeVar("Body")


class _NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a creation; what is missing or wrong is told afterwards, one by one."""

    operation: str | None = None
    query: str | None = None
    contentType: str = "CSV"
    columnDelimiter: str = "COMMA"
    lineEnding: str = "LF"


class _Change(msgspec.Struct):
    state: str | None = None


class Bulk:
    """One method per resource; each takes the call and what a fault does to it."""

    def __init__(self, org: Org) -> None:
        self._org = org
        self._jobs = org.jobs

    # --- creation

    def create(self, call: Call, _effect: Effect) -> Answer:
        if float(call.version) < QUERY_JOBS_SINCE:
            raise Refusal(not_found())
        wanted = _decoded(call.body, _NewJob)
        if wanted.operation is None or wanted.query is None:
            missing = "operation" if wanted.operation is None else "query"
            raise refuse(400, "INVALIDJOB", f"InvalidJob : A query job needs its {missing}.")
        for name, given, known in (
            ("operation", wanted.operation, OPERATIONS),
            ("contentType", wanted.contentType, ("CSV",)),
            ("columnDelimiter", wanted.columnDelimiter, tuple(DELIMITERS)),
            ("lineEnding", wanted.lineEnding, tuple(LINE_ENDINGS)),
        ):
            if given not in known:
                raise refuse(
                    400,
                    "INVALIDJOB",
                    f"InvalidJob : Unsupported {name}: {given}. Supported are {', '.join(known)}.",
                )
        self._check_limits()
        plan = self._plan(wanted.query)
        dialect = Dialect(wanted.columnDelimiter, wanted.lineEnding)
        job = self._jobs.create(wanted.operation, wanted.query, plan, call.version, dialect)
        call.log.job = job.id
        answer = json_answer(_info(job) | _dialect(job))
        self._jobs.advance(job)
        return answer

    def _check_limits(self) -> None:
        options = self._org.options
        made = self._jobs.made_today()
        if made >= options.bulk_jobs_max:
            raise refuse(
                400,
                "LIMIT_EXCEEDED",
                f"Max bulk v2 query jobs ({options.bulk_jobs_max}) per 24 hrs has been reached ({made})",
            )
        if self._jobs.stored_today() >= options.bulk_storage_max_kb:
            raise refuse(
                400,
                "LIMIT_EXCEEDED",
                f"Max bulk v2 query result size stored ({options.bulk_storage_max_kb}) kb per 24 hrs has "
                "been exceeded",
            )

    def _plan(self, soql: str) -> Plan:
        """The plan of a query that Bulk can run; raises Refusal for others."""
        bare = _STRINGS.sub("''", soql)
        if _CHILDREN.search(bare):
            raise _unsupported("Aggregate Relationships")
        if _TYPEOF.search(bare):
            raise _unsupported("TYPEOF")
        try:
            with self._org.lock:
                plan = self._org.queries.plan(soql)
        except SoqlError as problem:
            raise refuse(400, problem.code, problem.text(soql)) from None
        if plan.sobject.name in self._org.options.bulk_unsupported:
            raise refuse(
                400, "INVALIDENTITY", f"Entity '{plan.sobject.name}' is not supported by the Bulk API."
            )
        if plan.kind != "rows":
            raise _unsupported("GROUP BY" if plan.group_sql else "Aggregate functions")
        if parse(soql).offset is not None:
            raise _unsupported("OFFSET")
        if plan.compound:
            raise refuse(400, "API_ERROR", "Selecting compound data not supported in Bulk Query")
        return plan

    # --- what became of it

    def _job(self, call: Call, effect: Effect, polled: bool = False) -> Job:
        """The job a call names, after its fate has struck and its time has passed."""
        job = self._jobs.find(call.groups["job"])
        if job is None:
            raise Refusal(not_found())
        if job.version != call.version:
            raise refuse(
                409,
                "API_ERROR",
                f"The job was created with API version {job.version}, the request has {call.version}.",
            )
        fate = effect.fate
        if fate is None:
            self._jobs.advance(job, polled)
        elif fate.state is not None:
            self._jobs.end(job, fate.state, fate.message)
        else:
            self._jobs.remove(job)
            raise Refusal(not_found())
        return job

    def info(self, call: Call, effect: Effect) -> Answer:
        job = self._job(call, effect, polled=True)
        return json_answer(_full(job, effect.miscounted))

    def listing(self, call: Call, _effect: Effect) -> Answer:
        """Jobs, the oldest first, of the kinds asked for."""
        chosen = [job for job in self._jobs.all() if _matches(job, call.params)]
        begin = 0
        if "queryLocator" in call.params:
            try:
                begin = [job.id for job in chosen].index(call.params["queryLocator"])
            except ValueError:
                raise refuse(400, "INVALID_QUERY_LOCATOR", "invalid query locator") from None
        page, rest = chosen[begin : begin + JOBS_PER_PAGE], chosen[begin + JOBS_PER_PAGE :]
        following = None
        if rest:
            params = {**call.params, "queryLocator": rest[0].id}
            following = f"/services/data/v{call.version}/jobs/query?{urlencode(params)}"
        records = [_info(job) | {"jobType": "V2Query"} | _dialect(job) for job in page]
        return json_answer({"done": not rest, "records": records, "nextRecordsUrl": following})

    def abort(self, call: Call, effect: Effect) -> Answer:
        job = self._job(call, effect)
        if _decoded(call.body, _Change).state != ABORTED:
            raise refuse(400, "INVALIDJOB", "InvalidJob : A query job's state can only be set to Aborted.")
        if job.state in ENDED:
            state = "Completed" if job.state == COMPLETE else job.state
            raise refuse(400, "INVALIDJOBSTATE", f"Aborting already {state} Job not allowed")
        self._jobs.end(job, ABORTED)
        return json_answer(_info(job))

    def delete(self, call: Call, effect: Effect) -> Answer:
        job = self._job(call, effect)
        if job.state not in ENDED:
            raise refuse(
                400,
                "API_ERROR",
                "Error encountered when deleting the job because the job is not terminated",
            )
        self._jobs.remove(job)
        return Answer(204)

    # --- results

    def results(self, call: Call, effect: Effect) -> Answer:
        job, page = self._page(call, effect)
        assert job.result is not None
        distort = effect.distortion
        if distort.empty:
            page = Page(page.start, page.start, self._jobs.word(job, page.start, None))
        end = page.end
        if effect.rows is not None:
            end = min(end, page.start + effect.rows)
        counted = page.end - page.start
        if distort.counted:
            counted = max(0, counted + min(distort.repeated, counted) - distort.missing)
        lines = job.result.lines(page.start, end, distort)
        options, kind = self._org.options, CSV.split(";")[0]

        def encoded(piece: bytes) -> bytes:
            other = options.bulk_encoding.upper() != "UTF-8"
            return piece.decode().encode(options.bulk_encoding, "replace") if other else piece

        return Answer(
            200,
            media_type=f"{kind}; charset={options.bulk_encoding}" if options.bulk_charset else kind,
            headers=[
                ("Sforce-NumberOfRecords", str(counted)),
                ("Sforce-Locator", page.next_locator or "null"),
            ],
            stream=(encoded(piece) for piece in itertools.chain([job.result.header], lines)),
        )

    def result_pages(self, call: Call, effect: Effect) -> Answer:
        """Where the pages are, five at a time, so that they can be read side by side."""
        if float(call.version) < RESULT_PAGES_SINCE:
            raise Refusal(not_found())
        job, _ = self._page(call, effect)
        base = f"/services/data/v{call.version}/jobs/query/{job.id}"
        locator: str | None = call.params.get("locator") or self._jobs.word(job, 0, _most(call))
        urls: list[str] = []
        while locator is not None and len(urls) < URLS_PER_PAGE:
            urls.append(f"{base}/results?locator={locator}")
            locator = self._jobs.page(job, locator, None).next_locator
        following = f"{base}/resultpages?locator={locator}" if locator else None
        return json_answer(
            {
                "resultPages": [{"resultUrl": url} for url in urls],
                "nextRecordsUrl": following,
                "done": following is None,
            }
        )

    def _page(self, call: Call, effect: Effect) -> tuple[Job, Page]:
        job = self._job(call, effect)
        most = _most(call)
        if job.state != COMPLETE:
            raise refuse(
                400, "API_ERROR", f"Results are available once the job is complete; it is {job.state}"
            )
        try:
            return job, self._jobs.page(job, call.params.get("locator"), most)
        except NoSuchLocator:
            raise refuse(400, "INVALID_QUERY_LOCATOR", "invalid query locator") from None


def query_of(body: bytes) -> str | None:
    """The SOQL of a creation's body, for the request log."""
    try:
        return msgspec.json.decode(body, type=_NewJob).query
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _decoded(body: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise refuse(400, "JSON_PARSER_ERROR", f"{problem}") from None


def _unsupported(what: str) -> Refusal:
    return refuse(400, "API_ERROR", f"{what} not supported in Bulk V2 Query with CSV content type")


def _most(call: Call) -> int | None:
    given = call.params.get("maxRecords")
    if given is None:
        return None
    if not given.isdecimal() or not 0 < int(given) < 2**31:
        raise refuse(400, "API_ERROR", f"maxRecords must be a positive number, not {given}")
    return int(given)


def _matches(job: Job, params: dict[str, str]) -> bool:
    chunked = params.get("isPkChunkingEnabled")
    return (
        params.get("jobType", "V2Query") == "V2Query"
        and params.get("concurrencyMode", "parallel").casefold() == "parallel"
        and (chunked is None or (chunked.casefold() == "true") == job.chunked)
    )


def _info(job: Job) -> dict[str, Any]:
    """What every answer tells of a job, in the recorded order."""
    return {
        "id": job.id,
        "operation": job.operation,
        "object": job.sobject,
        "createdById": job.created_by,
        "createdDate": values.moment_text(values.seconds(job.created)),
        "systemModstamp": values.moment_text(values.seconds(job.changed)),
        "state": job.state,
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": float(job.version),
    }


def _dialect(job: Job) -> dict[str, Any]:
    return {"lineEnding": job.dialect.line_ending, "columnDelimiter": job.dialect.delimiter}


def _full(job: Job, miscounted: int) -> dict[str, Any]:
    processed = job.result.total if job.result is not None and job.state == COMPLETE else 0
    info = {
        **_info(job),
        "jobType": "V2Query",
        **_dialect(job),
        "numberRecordsProcessed": max(0, processed + miscounted),
        "retries": 0,
        "totalProcessingTime": job.milliseconds,
        "isPkChunkingSupported": job.sobject in _CHUNKABLE or job.sobject.endswith("__c"),
    }
    return info | ({"errorMessage": job.message} if job.message is not None else {})
