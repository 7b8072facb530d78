"""Everything in Postgres: tables, transactions, merge, cursors, leases, journal, feed, ledger of fields.

It knows nothing of Salesforce's API. SQL stands at the top of the module that runs it.
Start with `tables`, then `load` (how a page gets into its table) and `state` (what is remembered).
"""
