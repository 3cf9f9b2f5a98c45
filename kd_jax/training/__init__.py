"""Training: the state, one pure step, and the loop over the epochs of a phase."""
