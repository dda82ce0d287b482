"""Model folders: written from a run, spoken with, and judged; and what a base says, to be replayed."""
