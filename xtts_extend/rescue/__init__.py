"""Runs that went wrong: what is the matter with a checkpoint, and what can be put right."""
