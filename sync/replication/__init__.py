"""The replication: what is read in which order, what is written, and the proof that it is right.

Brings `salesforce` and `postgres` together, which do not know each other. Start with `pipeline`.
"""
