"""Environment to frozen settings. The only package that reads the environment.

Start with `settings`; the other modules check single values.
"""
