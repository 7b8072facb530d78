"""The control endpoint under /simulator/: the Python API for other processes, JSON in and out.

Each request carries the simulator's own token in ``X-Simulator-Token``; pages of other sites, which a browser
on this machine may show, are refused whatever they carry.

``GET /simulator`` lists the actions. Reading: ``GET requests``, ``GET options``, ``GET faults``,
``GET clock``, ``GET record?id=``, ``GET ids?object=``. Acting: ``POST <action>`` with the arguments of
the Python call as a JSON object, for instance ``POST /simulator/create`` with
``{"object": "Contact", "record": {"LastName": "x"}}``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from secrets import compare_digest
from typing import Any

import msgspec

from sync.simulator.clock import Clock
from sync.simulator.describes import read_describe
from sync.simulator.faults.active import Fault, Faults
from sync.simulator.faults.kinds import FAULTS
from sync.simulator.fields import Field
from sync.simulator.org import Org
from sync.simulator.sessions import Sessions
from sync.simulator.wire import Answer, Call, Request, json_answer

Arguments = dict[str, Any]
Action = Callable[[Arguments], Any]


@dataclass(frozen=True)
class Guard:
    """Who may use the controls: a program that knows the token and asks this server under its own name."""

    port: int
    token: str

    def refusal(self, call: Call) -> str | None:
        """Why a request is not answered; None where it is."""
        headers = call.headers
        own = {f"{name}:{self.port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        if headers.get("host", "").lower() not in own:
            return f"the Host is none of {', '.join(sorted(own))}"  # DNS that leads a foreign name here
        if headers.get("origin", "https://" + min(own)).lower() not in {f"https://{name}" for name in own}:
            return "the Origin is a foreign one"
        if headers.get("sec-fetch-site", "none").lower() not in ("none", "same-origin"):
            return "another site sent it (Sec-Fetch-Site)"
        if not compare_digest(headers.get("x-simulator-token", "").encode(), self.token.encode()):
            return "X-Simulator-Token is missing or wrong: it is printed when the simulator starts"
        return None


class Control:
    """Maps action names to what they do; a wrong argument answers 400 with the reason."""

    def __init__(
        self,
        guard: Guard,
        org: Org,
        faults: Faults,
        sessions: Sessions,
        requests: list[Request],
        api_calls: Callable[[], int],
    ) -> None:
        self._guard = guard
        self._org = org
        self._faults = faults
        self._requests = requests
        clock, self._api_calls = org.clock, api_calls
        self._reads: dict[str, Action] = {
            "requests": lambda _: self._log(),
            "options": lambda _: asdict(org.options),
            "faults": lambda _: {name: kind.text for name, kind in FAULTS.items()},
            "clock": lambda _: {"now": clock.now().isoformat()},
            "record": lambda given: org.record(given["id"]),
            "ids": lambda given: org.ids(given["object"], _flag(given.get("deleted"))),
            "count": lambda given: org.count(given["object"], _flag(given.get("deleted"))),
        }
        self._acts = _record_acts(org) | _schema_acts(org)
        self._acts |= {
            "faults": self._add_fault,
            "clear_faults": lambda _: faults.clear(),
            "clear_requests": lambda _: requests.clear(),
            "options": self._set_options,
            "revoke_tokens": lambda _: sessions.revoke_all(),
            "clock": lambda given: _set_clock(clock, given),
        }

    def answer(self, call: Call) -> Answer:
        if (reason := self._guard.refusal(call)) is not None:
            return json_answer({"error": reason}, 403)
        name = call.groups["action"].strip("/")
        if not name:
            return json_answer({"GET": sorted(self._reads), "POST": sorted(self._acts)})
        if call.method == "DELETE" and name in ("faults", "requests"):
            name = f"clear_{name}"
        action = (self._reads if call.method == "GET" else self._acts).get(name)
        if action is None:
            return json_answer({"error": f"no {call.method} action {name!r}"}, 404)
        try:
            given = call.params if call.method == "GET" else msgspec.json.decode(call.body or b"{}")
            return json_answer({"result": action(given)})
        except KeyError as problem:
            return json_answer({"error": f"missing or unknown: {problem.args[0]}"}, 400)
        except (ValueError, TypeError, msgspec.MsgspecError) as problem:
            return json_answer({"error": str(problem)}, 400)

    def _log(self) -> dict[str, Any]:
        return {"requests": [asdict(each) for each in list(self._requests)], "api_calls": self._api_calls()}

    def _add_fault(self, given: Arguments) -> dict[str, Any]:
        fault: Fault = self._faults.add(**given)
        return {"number": fault.number, "name": fault.name, "on": fault.on}

    def _set_options(self, given: Arguments) -> dict[str, Any]:
        options = self._org.options
        unknown = given.keys() - asdict(options).keys()
        if unknown:
            raise ValueError(f"no options {', '.join(sorted(unknown))}")
        for name, value in given.items():
            moment = name == "replication_enabled_at" and value is not None
            setattr(options, name, datetime.fromisoformat(value) if moment else value)
        return asdict(options)


def _record_acts(org: Org) -> dict[str, Action]:
    return {
        "create": lambda given: org.create(given["object"], given["record"], _when(given)),
        "create_many": lambda given: org.create_many(given["object"], given["records"], _when(given)),
        "update": lambda given: org.update(
            given["id"], given["record"], _when(given), bool(given.get("system_only"))
        ),
        "update_many": lambda given: org.update_many(given["ids"], given["record"], _when(given)),
        "delete": lambda given: org.delete(given["id"], _when(given)),
        "undelete": lambda given: org.undelete(given["id"], given.get("bump"), _when(given)),
        "purge": lambda given: org.purge(given["id"], bool(given.get("log", True))),
        "purge_delete_log": lambda given: org.purge_delete_log(_when(given, "until")),
        "merge": lambda given: org.merge(given["master"], given["losers"], _when(given)),
    }


def _schema_acts(org: Org) -> dict[str, Action]:
    return {
        "change_formula": lambda given: org.change_formula(given["object"], given["field"], given["change"]),
        "add_field": lambda given: org.add_field(
            given["object"], msgspec.convert(given["field"], _NewField).field()
        ),
        "add_object": lambda given: org.add_object(read_describe(dict(given["describe"]))),
        "remove_field": lambda given: org.remove_field(given["object"], given["field"]),
        "retype_field": lambda given: org.retype_field(given["object"], given["field"], **given["changes"]),
        "hide_field": lambda given: org.hide_field(given["object"], given["field"]),
        "show_field": lambda given: org.show_field(given["object"], given["field"]),
        "hide_object": lambda given: org.hide_object(given["object"]),
        "show_object": lambda given: org.show_object(given["object"]),
    }


class _NewField(msgspec.Struct, forbid_unknown_fields=True):
    """A field as JSON may describe it; formulas need Python."""

    name: str
    type: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    digits: int = 0
    label: str | None = None
    values: tuple[str, ...] = ()
    relationship: str | None = None
    reference_to: tuple[str, ...] = ()

    def field(self) -> Field:
        return Field(**msgspec.structs.asdict(self))


def _when(given: Arguments, name: str = "stamp") -> datetime | None:
    text = given.get(name)
    return None if text is None else datetime.fromisoformat(text)


def _flag(text: str | None) -> bool | None:
    return None if text is None else text.lower() == "true"


def _set_clock(clock: Clock, given: Arguments) -> dict[str, str]:
    """``{"advance": seconds}``, ``{"freeze": time or null}`` or ``{"resume": true}``."""
    if "advance" in given:
        clock.advance(float(given["advance"]))
    if "freeze" in given:
        clock.freeze(_when(given, "freeze"))
    if given.get("resume"):
        clock.resume()
    return {"now": clock.now().isoformat()}
