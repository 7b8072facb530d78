"""The control endpoint under /simulator/: the Python API for other processes, JSON in and out, no login."""

from sync.simulator.faults import Faults
from sync.simulator.org import Org
from sync.simulator.sessions import Sessions
from sync.simulator.wire import Answer, Call, Request, json_answer


class Control:
    def __init__(self, org: Org, faults: Faults, sessions: Sessions, requests: list[Request]) -> None:
        self._org = org
        self._faults = faults
        self._sessions = sessions
        self._requests = requests

    def answer(self, call: Call) -> Answer:
        return json_answer({})
