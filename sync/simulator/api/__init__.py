"""The data API: its resources, writes of records, and the Composite resource."""
