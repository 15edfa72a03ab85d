"""Prompts: recommended negatives, lint, token counts."""
