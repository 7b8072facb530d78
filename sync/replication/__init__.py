"""The replication: what is read in which order, what is written, and the proof. Start with `pipeline`."""
