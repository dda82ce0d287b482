"""Write and read language packs, keep them in a model folder, and speak with them."""
