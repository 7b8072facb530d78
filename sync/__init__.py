"""Keeps Postgres an exact, fresh, provable copy of an org's Salesforce records."""

__version__ = "0.1.0"
