"""Bulk API 2.0 query jobs: ``api`` answers calls, ``jobs`` keeps jobs, ``results`` renders rows as CSV."""
