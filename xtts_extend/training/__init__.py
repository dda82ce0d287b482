"""Batches become steps: configuration, start, the resumable trainer."""
