"""Folders and zips to samples: which files there are, what they are called, and which belong together."""
