"""A recording becomes a batch: manifests, checks, dataset, sampler."""
