"""Settings, where they come from, and checks before anything is loaded."""
