"""API calls: the plan of what may run now, its application, and estimates.

Start with `plan`.
"""
