"""The objects and their fields, as data, and pure functions that turn records into rows.

Imports no other package, and talks to nothing. The one place to edit for a field or an object.
Start with `objects`, then `mapping` (what the declarations mean) and `transform` (record to row).
"""
