"""Diagnose and repair the checkpoints of runs that went wrong."""
