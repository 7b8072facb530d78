"""The resources: the address of each, its methods, its kind in the request log, and who answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sync.simulator.api.composite import Composite
from sync.simulator.api.writes import Writes
from sync.simulator.bulk.api import Bulk
from sync.simulator.control import Control
from sync.simulator.faults.kinds import Effect
from sync.simulator.oauth import OAuth
from sync.simulator.rest import Rest
from sync.simulator.wire import Answer, Call, error

_VERSION = r"/services/data/v(?P<version>\d{1,3}\.\d{1,2})"
_JOB = r"/(?P<job>\w{15}|\w{18})"
_SOBJECT = _VERSION + r"/sobjects/(?P<sobject>\w+)"
_RECORD = _SOBJECT + r"/(?P<id>\w{15}|\w{18})/?"


@dataclass(frozen=True)
class Route:
    """A resource: its address, the methods it knows, its kind in the log, and who answers."""

    pattern: re.Pattern[str]
    methods: str
    kind: str
    answer: Callable[[Call, Effect], Answer]
    api: bool = True  # needs a session and counts as an API call


def routes(
    rest: Rest, bulk: Bulk, oauth: OAuth, control: Control, composite: Composite, writes: Writes
) -> list[Route]:
    """All resources; of those that share an address each has its methods."""

    def route(
        pattern: str, methods: str, kind: str, answer: Callable[[Call], Answer], api: bool = True
    ) -> Route:
        return Route(re.compile(pattern), methods, kind, lambda call, _: answer(call), api)

    def paged(pattern: str, kind: str, answer: Callable[[Call, Any], Answer]) -> Route:
        return Route(
            re.compile(pattern), "GET HEAD", kind, lambda call, effect: answer(call, effect.distortion)
        )

    def job(pattern: str, methods: str, kind: str, answer: Callable[[Call, Effect], Answer]) -> Route:
        return Route(re.compile(_VERSION + "/jobs/query" + pattern), methods, kind, answer)

    read = "GET HEAD"
    return [
        route(r"/services/oauth2/token", "POST", "token", oauth.token, api=False),
        route(r"/services/oauth2/introspect", "POST", "introspect", oauth.introspect, api=False),
        route(r"/services/oauth2/revoke", "GET POST", "revoke", oauth.revoke, api=False),
        route(r"/services/oauth2/userinfo", "GET POST", "userinfo", oauth.userinfo, api=False),
        route(r"/id/\w+/\w+", read, "userinfo", oauth.userinfo, api=False),
        route(r"/services/data/?", read, "versions", rest.versions, api=False),
        route(_VERSION + "/?", read, "resources", rest.resources),
        route(_VERSION + "/limits/?", read, "limits", rest.limits),
        paged(_VERSION + r"/query(?P<all>|All)/?", "query", rest.query),
        paged(_VERSION + r"/query(?:|All)/(?P<locator>0r8\w{15})-(?P<offset>\d{1,9})", "page", rest.page),
        paged(_VERSION + r"/query(?:|All)/(?P<locator>[^/]*?)(?P<offset>)", "page", _malformed_locator),
        route(_VERSION + "/sobjects/?", read, "sobjects", rest.describe_global),
        route(_SOBJECT + "/?", read, "sobject", rest.basic),
        route(_SOBJECT + "/?", "POST", "create", writes.create),
        route(_SOBJECT + "/describe/?", read, "describe", rest.describe),
        route(_SOBJECT + "/updated/?", read, "updated", rest.updated),
        route(_SOBJECT + "/deleted/?", read, "deleted", rest.deleted),
        route(_RECORD, read, "record", rest.record),
        route(_RECORD, "PATCH", "update", writes.update),
        route(_RECORD, "DELETE", "delete", writes.delete),
        Route(re.compile(_VERSION + "/composite/?"), "POST", "composite", composite.answer),
        route(_VERSION + r"/composite/sobjects/(?P<sobject>\w+)/?", "POST", "retrieve", rest.retrieve),
        job("/?", "POST", "job_create", bulk.create),
        job("/?", read, "jobs", bulk.listing),
        job(_JOB + "/?", read, "job", bulk.info),
        job(_JOB + "/?", "PATCH", "job_abort", bulk.abort),
        job(_JOB + "/?", "DELETE", "job_delete", bulk.delete),
        job(_JOB + "/results/?", read, "results", bulk.results),
        job(_JOB + "/result[Pp]ages/?", read, "result_pages", bulk.result_pages),
        route(r"/simulator(?:/(?P<action>[\w/]*))?", "GET POST DELETE", "control", control.answer, api=False),
    ]


def _malformed_locator(_call: Call, _distort: object) -> Answer:
    return error(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
