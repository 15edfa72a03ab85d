"""Where job records are kept."""
