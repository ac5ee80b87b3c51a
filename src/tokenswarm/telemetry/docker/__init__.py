"""Containers as a Docker engine tells of them."""
