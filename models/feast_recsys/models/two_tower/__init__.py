"""The two-tower model: its encoders, the batches and negatives that it learns from, and its training."""
