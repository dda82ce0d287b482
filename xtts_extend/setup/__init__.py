"""What happens before the first batch: flags and a checkpoint become configuration, samples and weights."""
