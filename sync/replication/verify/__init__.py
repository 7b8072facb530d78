"""The comparison of the tables with the org: listings, buckets, single records, repair.

Start with `comparison`.
"""
