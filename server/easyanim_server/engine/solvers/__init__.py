"""Solvers of the denoising equation."""
