"""What `check` and `schema` find: each question is tried, nothing is changed.

Start with `checks`, which asks everything in order.
"""
