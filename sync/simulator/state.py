"""What the parts of an org share: lock, clock, options, schema, rows and formulas."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sync.simulator.clock import Clock
from sync.simulator.formulas import Formulas
from sync.simulator.objects.schema import Schema, SObject
from sync.simulator.options import Options
from sync.simulator.store import Store


@dataclass(frozen=True)
class OrgState:
    """The stored state of one org. Every reader and writer of the store holds the lock."""

    clock: Clock
    options: Options
    schema: Schema
    store: Store
    formulas: Formulas
    lock: threading.RLock = field(default_factory=threading.RLock)


def open_state(path: Path, clock: Clock, options: Options, described: Iterable[SObject] = ()) -> OrgState:
    """An empty org whose rows go to the SQLite file ``path``, with a table for each object."""
    schema, store = Schema(options, described), Store(path)
    state = OrgState(clock, options, schema, store, Formulas(schema, store))
    for sobject in schema.objects.values():
        store.create_table(sobject)
        state.formulas.register(sobject)
    store.execute("CREATE TABLE delete_log (object TEXT, id TEXT, stamp INTEGER)")
    return state
