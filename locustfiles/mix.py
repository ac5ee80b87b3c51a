"""Play a scenario: `locust -f locustfiles/mix.py --scenario scenarios/three-models-ollama.yaml`.

Headless with --headless, more processes with --processes 4 or --master and --worker.
"""

from tokenswarm.load import MixUser


class Mix(MixUser):
    """Each user takes the next request of the scenario's mix."""
