"""Verification: listings, buckets, single records, repair.

Start with `comparison`.
"""
