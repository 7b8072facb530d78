"""Read the records of a window as pages: by REST, by the Bulk API, or by several joined queries.

Start with `extraction`, the one place that chooses between them.
"""
