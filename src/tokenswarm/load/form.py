"""The form of Locust's web page: it says why a run did not start."""

from locust.runners import STATE_RUNNING, STATE_SPAWNING

from typing import Any

from flask import Response, jsonify, request
from gevent.event import Event


class Form:
    """Lets the answer to the form wait until the start is decided: Locust's comes before it, and
    its page then takes every start for good and stops asking once it has seen the state `ready`."""

    def __init__(self, environment: Any, runner: Any) -> None:
        self._runner = runner
        self._decided = Event()
        self._refusal: str | None = None
        if environment.web_ui is not None:
            environment.web_ui.app.after_request(self._answer)

    def decide(self, refusal: str | None) -> None:
        """The run is on (None), or why it is not."""
        self._refusal = refusal
        self._decided.set()

    def _answer(self, response: Response) -> Response:
        """Called in the greenlet of the request; the start that it spawned has not run yet."""
        if request.endpoint != "locust.swarm" or not self._starts(response):
            return response
        self._decided.clear()
        self._decided.wait()
        if self._refusal is None:
            return response
        return jsonify({**response.get_json(), "success": False, "message": self._refusal})

    def _starts(self, response: Response) -> bool:
        """Whether a new run is to come of it: no edit of users, no mistake in the form."""
        no_workers = getattr(self._runner, "worker_count", 1) == 0
        on = self._runner.state in (STATE_SPAWNING, STATE_RUNNING)
        accepted = response.is_json and response.get_json().get("success")
        return bool(accepted) and not on and not no_workers
