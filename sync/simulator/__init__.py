"""A local Salesforce over HTTPS, good enough to catch the wrong beliefs of a replication client.

with Simulator(accounts=100, contacts=300) as simulator:
    simulator.org.update(simulator.org.ids("Contact")[0], {"Title": "Director"})
    simulator.faults.add("session_expired", on="page")
"""

from sync.simulator.clock import Clock
from sync.simulator.fault_kinds import FAULTS
from sync.simulator.faults import Fault
from sync.simulator.fields import Field, Formula
from sync.simulator.options import Options
from sync.simulator.org import Org
from sync.simulator.simulator import FLOWS, Simulator
from sync.simulator.wire import Request

__all__ = ["FAULTS", "FLOWS", "Clock", "Fault", "Field", "Formula", "Options", "Org", "Request", "Simulator"]
