"""Commands: arguments, output for people and programs, exit codes.

The only package that draws tables. Start with `commands`, then `wiring` (settings, database, session).
"""
