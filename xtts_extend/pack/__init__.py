"""Language packs: write and read them, keep them in a model folder, and speak with them."""
