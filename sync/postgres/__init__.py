"""Everything in Postgres: tables, transactions, merge, cursors, leases, journal, feed, ledger of fields.

Knows nothing of Salesforce's API. SQL text stands at the top of the module that runs it.
Start with `tables`, then `load` (a page into its table) and `state` (what is remembered).
"""
