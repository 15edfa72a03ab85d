"""What is run beside the server, and is no part of it."""
