"""What keeps a deployment running: the worker's schedule, status, check, grants, erasure on request.

Start with `schedule` (the worker) or `report` (status).
"""
