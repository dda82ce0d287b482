"""Data loading: manifests, checks, the dataset and the batch sampler."""
