"""Image files, and tars made elsewhere: what there is, joined to samples."""
