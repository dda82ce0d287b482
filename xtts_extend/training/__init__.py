"""Batches become steps: the resumable trainer, its updates, evaluations and checkpoints."""
