"""Frames in, file bytes out while they arrive."""
