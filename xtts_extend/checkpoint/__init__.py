"""Steps become files and files become steps: inspection and storage."""
