"""What is decided: one stage a file, in travel order; pure functions of (records, state, clock)."""
