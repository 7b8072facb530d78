"""``python -m sync.simulator``: a local Salesforce until Ctrl-C."""

import argparse

from sync.simulator.serve import serve
from sync.simulator.simulator import FLOWS


def main() -> None:
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
    chosen = parser.parse_args()
    serve(chosen.port, chosen.accounts, chosen.contacts, chosen.seed, chosen.flow, chosen.credentials_seed)


if __name__ == "__main__":
    main()
