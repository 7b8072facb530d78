"""One user's connection to one org: login, retries, error rules, HTTP, limits of every answer.

It is the only package that uses HTTP libraries. Start with `session`, then `connection`.
"""
