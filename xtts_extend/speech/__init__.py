"""Export model folders, speak with them and evaluate them, and generate replay sets with a base model."""
