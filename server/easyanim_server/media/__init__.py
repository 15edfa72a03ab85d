"""Pictures into frames, frames into video files."""
