"""Bulk API 2.0 query jobs: api answers the calls, jobs keeps them, results renders their rows as CSV."""
