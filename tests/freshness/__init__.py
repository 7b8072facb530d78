"""How fresh the tables are, and what that costs."""
