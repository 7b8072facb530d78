"""The schema and its history; env.py is Alembic's entry."""
