"""The findings of `check` and `schema`: each point is tested, nothing is changed.

Start with `checks`, which runs all tests in order.
"""
