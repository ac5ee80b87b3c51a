"""The swap drill: one model after the other, so that nearly every request waits for a swap.

`locust -f locustfiles/model_swap.py --headless --target-url box=http://gpu:11434`
plays scenarios/swap-drill.yaml unless --scenario names another.
"""

from pathlib import Path

from tokenswarm.load import MixUser, default_scenario

default_scenario(Path(__file__).parent.parent / "scenarios" / "swap-drill.yaml")


class ModelSwap(MixUser):
    """Each user takes the next request of the round."""
