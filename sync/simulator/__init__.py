"""A local Salesforce over HTTPS, good enough to catch the wrong beliefs of a replication client.

with Simulator(accounts=100, contacts=300) as simulator:
    simulator.org.update(simulator.org.ids("Contact")[0], {"Title": "Director"})
    simulator.faults.add("session_expired", on="page")

Account and Contact are there from the start; every other object comes from its describe answer, as JSON:
``Simulator(describes=[Path("opportunity.json")])``. Describes that the catalogue keeps are read by default.
"""

from sync.simulator.clock import Clock
from sync.simulator.faults.active import Fault
from sync.simulator.faults.kinds import FAULTS
from sync.simulator.fields import Field, Formula
from sync.simulator.options import Options
from sync.simulator.org import Org
from sync.simulator.simulator import FLOWS, Simulator
from sync.simulator.wire import Request

__all__ = ["FAULTS", "FLOWS", "Clock", "Fault", "Field", "Formula", "Options", "Org", "Request", "Simulator"]
