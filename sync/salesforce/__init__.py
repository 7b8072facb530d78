"""Everything asked of Salesforce: login, retry, queries, Bulk jobs. Knows nothing of Postgres.

Start with `extract` (a window as pages), then `session` (one user's connection).
"""
