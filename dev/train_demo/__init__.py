"""Trains `builtin:demo` from nothing: photographs and textures, motion over them, a VAE, a transformer."""
