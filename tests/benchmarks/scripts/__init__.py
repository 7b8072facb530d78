"""What users write today: one-off scripts, each in its usual form, and none slower than it has to be."""
