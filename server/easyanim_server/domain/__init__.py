"""Jobs, shapes, events and errors in plain Python."""
