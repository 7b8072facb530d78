"""Log lines without secrets, and signs of activity for the watchdog.

No other package is imported here. Start with `logger`, then `printable` (which text may be printed).
"""
