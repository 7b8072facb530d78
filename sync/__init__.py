"""Keeps Postgres an exact, fresh, provable copy of a Salesforce org's customers."""

__version__ = "0.1.0"
