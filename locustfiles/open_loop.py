"""Requests at a rate, whether the server keeps up or not: waiting behind a swap is counted.

`locust -f locustfiles/open_loop.py --headless --rate 4 --duration 120`
plays scenarios/open-loop.yaml unless --scenario names another. Locust's users are the cap on
requests in flight.
"""

from pathlib import Path

from tokenswarm.load import MixUser, default_scenario

default_scenario(Path(__file__).parent.parent / "scenarios" / "open-loop.yaml")


class OpenLoop(MixUser):
    """Each user takes the next arrival of the schedule and sends it when it is due."""
