"""Repeatable benchmarks of tokenswarm itself; see README.md. Run as `python -m bench NAME`."""
