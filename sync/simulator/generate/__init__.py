"""The records of a fresh org: ``customers`` writes accounts and contacts, ``described`` all others."""
