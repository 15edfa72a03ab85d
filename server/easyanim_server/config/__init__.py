"""Settings, their sources, and checks before anything is loaded."""
