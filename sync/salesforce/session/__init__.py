"""One user's connection to one org: login, retries, error rules, HTTP, bounds of every answer.

The only package that knows HTTP libraries. Start with `session`, then `connection`.
"""
