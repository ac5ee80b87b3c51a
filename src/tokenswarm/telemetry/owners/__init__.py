"""Whose a process is: its container and the model that it serves."""
