"""Postgres: tables, transactions, merge, cursors, leases, journal, feed, field ledger.

It uses nothing of Salesforce's API. SQL text stands at the top of the module that runs it.
Start with `tables`, then `load` (pages into tables) and `state` (what is stored beside the rows).
"""
