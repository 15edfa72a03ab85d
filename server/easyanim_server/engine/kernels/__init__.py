"""Fused kernels and operators."""
