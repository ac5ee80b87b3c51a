"""tokenswarm: load testing of LLM servers that share a GPU."""

__version__ = "0.1.0"
__all__ = ["__version__"]
