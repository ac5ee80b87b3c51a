"""What `tokenswarm run` gives to Locust; the same as locustfiles/mix.py of the repository."""

from tokenswarm.load import MixUser


class Mix(MixUser):
    """Each user takes the next request of the scenario's mix."""
