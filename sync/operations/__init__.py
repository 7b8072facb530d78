"""Operating a deployment: worker, status, check, grants, erasure on request.

Start with `worker`, then `status`.
"""
