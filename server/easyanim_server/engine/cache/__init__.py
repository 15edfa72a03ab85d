"""What compilers and measurements made, kept on disk."""
