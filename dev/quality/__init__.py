"""How good videos are: motion against prompts, pictures against what was given, settings against a reference."""
