"""Compiled execution paths, their precision, and the check of their numbers."""
