"""What keeps a deployment running: worker, status, check, grants, erasure on request.

Start with `worker`, then `status`.
"""
