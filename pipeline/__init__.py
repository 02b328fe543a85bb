"""Shards to batches on the device. Knows of shards only what is written down: the schema and the manifest."""
