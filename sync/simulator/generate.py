"""Plausible customers, the same for the same seed."""

from sync.simulator.org import Org


def populate(org: Org, accounts: int, contacts: int, seed: int) -> None:
    """Fill a fresh org and index it."""
    for place in range(accounts):
        org.create("Account", {"Name": f"Account {place}"})
    owners = org.ids("Account")
    for place in range(contacts):
        parent = owners[place % len(owners)] if owners else None
        org.create("Contact", {"LastName": f"Person {place}", "AccountId": parent})
    for sobject in org.schema.objects.values():
        org.store.create_indexes(sobject)
