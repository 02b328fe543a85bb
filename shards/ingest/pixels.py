"""Stub until the branch of that name is merged."""

READ = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".npy")
)
NOT_READ = {".exr": "OpenEXR is not read; save it as .npy"}
