"""Salesforce: login, retry, queries, Bulk jobs. It uses nothing of Postgres.

Start with `extract` (a window as pages), then `session` (one user's connection).
"""
