"""Replication: the order of reading and writing, and the verification of the result.

It is the only package that uses both `salesforce` and `postgres`. Start with `pipeline`.
"""
