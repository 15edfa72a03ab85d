"""Facts about jobs, models and videos in pure Python."""
