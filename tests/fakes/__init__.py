"""Stand-ins of our own for what tests need and no checkpoint has."""
