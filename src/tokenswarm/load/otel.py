"""OpenTelemetry beside gevent: what it does after a fork waits until the fork is over.

In a forked child its exporters start their threads anew. A thread that starts lets others run, and
under gevent others would run on the event loop that is still the parent's, in the middle of the
fork; now and then both then wait for ever. Locust sets OpenTelemetry up and forks its `--processes`
afterwards.
"""

import os
from collections.abc import Callable
from typing import Any

import gevent

PACKAGE = "opentelemetry"


def after_forks() -> None:
    """From now on, what OpenTelemetry registers to do in a child is done once the child's own
    loop runs. Everybody else's is left as it is."""
    register = os.register_at_fork

    def registered(**hooks: Callable[[], Any]) -> None:
        hook = hooks.get("after_in_child")
        if hook is not None and str(getattr(hook, "__module__", "")).startswith(PACKAGE):
            hooks["after_in_child"] = lambda: gevent.spawn(hook)
        register(**hooks)

    os.register_at_fork = registered  # type: ignore[assignment]
