"""Objects, their fields, and the pure functions that make rows of records. Start with `objects`."""
