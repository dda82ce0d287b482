"""Read repositories on the Hugging Face Hub: models and data sets."""
