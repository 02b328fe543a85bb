"""Cut-outs pasted on backgrounds."""
