"""``python -m sync.simulator``: a local Salesforce until Ctrl-C."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sync.simulator.describes import DescribeError
from sync.simulator.generate.described import UnknownObjectError
from sync.simulator.serve import record_count, serve
from sync.simulator.simulator import FLOWS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sync.simulator", description="A local Salesforce over HTTPS."
    )
    parser.add_argument("--port", type=int, default=8443, help="0 takes a free one")
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--contacts", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1, help="another seed is another org")
    parser.add_argument(
        "--flow", choices=FLOWS, default=FLOWS[0], help="the login whose settings are printed"
    )
    parser.add_argument(
        "--credentials-seed", type=int, help="the same seed makes the same credentials; else they are new"
    )
    parser.add_argument(
        "--describe",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an object more: the JSON of sobjects/X/describe; may be repeated",
    )
    parser.add_argument(
        "--records",
        type=_count,
        action="append",
        default=[],
        metavar="OBJECT=NUMBER",
        help="records of a described object, else one to five contacts; may be repeated",
    )
    chosen = parser.parse_args(arguments)
    try:
        serve(
            chosen.port,
            chosen.accounts,
            chosen.contacts,
            chosen.seed,
            chosen.flow,
            chosen.credentials_seed,
            chosen.describe,
            dict(chosen.records),
        )
    except (DescribeError, UnknownObjectError) as problem:
        parser.error(str(problem))


def _count(text: str) -> tuple[str, int]:
    try:
        return record_count(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


if __name__ == "__main__":
    main()
