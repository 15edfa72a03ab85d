"""Stand-ins at the seams of the server."""
