"""Load generation on Locust: the only part of tokenswarm that imports locust or gevent.

Importing it hooks tokenswarm's run life into Locust: each start leaves a run directory.
"""

from locust import User  # noqa: F401  (patches the process for gevent before anything else)

from tokenswarm.load.lifecycle import default_scenario, install
from tokenswarm.load.users import MixUser, OllamaUser, OpenAIUser

install()

__all__ = ["MixUser", "OllamaUser", "OpenAIUser", "default_scenario"]
