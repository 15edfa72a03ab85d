"""Measures the engine's speed and writes records."""
