"""A scenario file and everything that follows from it and its seed alone. Pure."""
