"""Export model folders, synthesize speech with them, evaluate them, and generate replay sets with a base model."""
