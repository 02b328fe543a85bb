"""Samples to shards, on this machine or on many."""
