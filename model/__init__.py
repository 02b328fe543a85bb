"""Batches to predictions, losses and metrics. Torch only: knows nothing of shards or of how they are read."""
