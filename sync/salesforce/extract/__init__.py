"""The records of a window, as pages: by REST, by Bulk API, or by several queries that are joined.

Start with `extraction`, the one place that chooses the way.
"""
