"""The demo on one machine: the simulator, an embedded PostgreSQL, and the worker.

It needs the development packages. Start with `demo`.
"""
