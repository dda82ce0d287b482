"""Model folders: export, speech and evaluation, and replay sets spoken by a base model."""
