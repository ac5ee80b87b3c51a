"""A simulated GPU and the servers that share it. Imports nothing of the rest of tokenswarm."""
