"""The product, made to die: `python -m tests.support.victim before|after N command…` kills itself with SIGKILL right
before or right after its Nth commit; `count` only prints how many commits there were."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from sync.demo.commands import main

commits = 0


def arm(moment: str, number: int) -> None:
    @event.listens_for(Engine, "commit")
    def _before(_connection: Any) -> None:
        global commits
        commits += 1
        if moment == "before" and commits == number:
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Pool, "checkin")
    def _after(_connection: Any, _record: Any) -> None:
        if moment == "after" and commits == number:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if describe := os.environ.get("DECLARED_DESCRIBE"):  # an object that the tests have declared
        declared = import_module("tests.support.declared")
        declared.register(declared.generated(Path(describe)))
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["sync", *sys.argv[3:]]
    try:
        main()
    finally:
        sys.stdout.write(f"commits={commits}\n")
