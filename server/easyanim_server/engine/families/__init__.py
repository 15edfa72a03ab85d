"""Model families: all code that belongs to one kind of model."""
