"""Servers under test: what they are, what they hold, which knobs they know."""

from tokenswarm.engines.probe import (
    ENGINES,
    adapter,
    check_models,
    probe,
    target_headers,
)

__all__ = ["ENGINES", "adapter", "check_models", "probe", "target_headers"]
