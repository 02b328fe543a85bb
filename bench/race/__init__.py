"""A race of loaders: Sluice and its peers, the same samples in each one's own format, measured in one run."""
