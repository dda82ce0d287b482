"""Write and read language packs, keep them in a model folder, and synthesize speech with them."""
