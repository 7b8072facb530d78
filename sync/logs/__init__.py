"""Log lines without secrets, and the sign of life of a job at work.

Below all other packages. Start with `logger`, then `printable` (what may be printed).
"""
