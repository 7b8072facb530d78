"""The demo on one machine: the simulator, an embedded PostgreSQL, and the worker between them.

Needs the development packages. Start with `demo`.
"""
