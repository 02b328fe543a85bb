"""Makes and checks the data set on disk: images to verified WebDataset shards. NumPy and Pillow; no torch, no DALI."""
