"""Commands: arguments, output for people and programs, exit codes.

It is the only package that prints tables. Start with `commands`, then `wiring` (settings, database, session).
"""
