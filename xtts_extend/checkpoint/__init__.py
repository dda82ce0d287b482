"""Inspect, write and read checkpoints."""
