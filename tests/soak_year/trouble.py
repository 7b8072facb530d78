"""Faults of all kinds, at one call in twenty."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from sync.simulator import FAULTS, Fault, Simulator

SHARE = 0.06  # some come too late in their pass to strike: one call in twenty is struck
CALLS = 12  # of a pass, about
# One that hangs lasts as long as the timeout of a real call, minutes of the half hour: tests/replication/test_kill.py.
LEFT_OUT = {"hang"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "slow": {"delay": 0.05},
    "redirect": {"location": "https://elsewhere.example/"},
    "answered": {"body": {}},
    "altered": {"set": {"totalSize": 1_000_000, "latestDateCovered": None}},
    "missing_rows": {"header": True},
    "session_expired": {"revoke": True},
}
PLACES = {"altered": "query"}  # not a body that is empty
KINDS = sorted(set(FAULTS) - LEFT_OUT)
# What an answer to any call may be; the others strike where the table of the simulator says.
LOGIN = [name for name in KINDS if name.startswith("token_")]
CALL = [name for name in KINDS if not name.startswith("token_")]


class Trouble:
    """The faults of one org."""

    def __init__(self, sim: Simulator, seed: int) -> None:
        self.sim, self.random = sim, random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.waiting: list[Fault] = []

    def prepare(self) -> None:
        """Let faults strike during the next pass."""
        for place in range(CALLS):
            if self.random.random() < SHARE:
                name = self.random.choice(CALL)
                on = PLACES.get(name, FAULTS[name].on)
                after = place if on == "any" else self.random.randint(0, 1)
                self.add(name, after=after)

    def prepare_login(self) -> None:
        """End all sessions; often the next login meets a fault, too."""
        self.sim.revoke_tokens()
        if self.random.random() < 0.5:
            self.add(self.random.choice(LOGIN))

    def add(self, name: str, after: int = 0) -> None:
        """Let a fault strike one call."""
        more: dict[str, Any] = PARAMETERS.get(name, {})
        self.waiting.append(self.sim.faults.add(name, PLACES.get(name), after, **more))

    def clear(self) -> None:
        """Count the faults that have struck; the others are forgotten."""
        self.struck.update(fault.name for fault in self.waiting if fault.fired)
        self.waiting.clear()
        self.sim.faults.clear()
