"""Training of one phase: from a state, under masks, from one step to another."""
