"""Reuse of predictions between steps."""
