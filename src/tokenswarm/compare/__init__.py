"""The study in one command: capacity, drill and load of every solution, and what to make of it."""
