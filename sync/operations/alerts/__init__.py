"""Incidents and alerts: what needs somebody, recorded once, told once, and told again when it is over.

Start with `problems`, then `incidents`, then `keeper`.
"""
