"""The steps before the first batch, which turn flags and a checkpoint into a configuration, samples and weights."""
