"""The product with another time to end after a signal: `python -m tests.support.hurried SECONDS command…`."""

from __future__ import annotations

import sys

from sync.demo.commands import main
from sync.operations import worker

if __name__ == "__main__":
    worker.SHUTDOWN_SECONDS = float(sys.argv[1])  # type: ignore[assignment]  # the tests have less time
    sys.argv = ["sync", *sys.argv[2:]]
    main()
