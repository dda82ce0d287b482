"""The steps before a run's first batch: turn flags and a checkpoint into a configuration, samples and weights."""
