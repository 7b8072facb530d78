"""The demo, and the PostgreSQL from a wheel that it and the tests run on. Start with `demo`."""
