"""Faults on command: ``kinds`` says what each fault does, ``active`` keeps those that wait for a call."""
