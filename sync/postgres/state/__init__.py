"""The state in the database: cursors, leases, the journal, versions of derived columns.

Start with `cursors`, then `leases`.
"""
