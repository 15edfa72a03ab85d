"""Where weights are kept, and what a bucket takes."""
