"""Servers under test: what they are, what they hold, which knobs they know."""
