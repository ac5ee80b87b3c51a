"""Locust user classes: subclass `OpenAIUser` or `OllamaUser`, or let `MixUser` play a scenario."""

from locust import User, task
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from typing import Any, ClassVar

from tokenswarm.clock import slug
from tokenswarm.errors import UsageError
from tokenswarm.load.generator import Generator
from tokenswarm.load.pace import Seat
from tokenswarm.load.sender import Sender
from tokenswarm.load.target import Route
from tokenswarm.scenario.model import ClosedLoad, Model, PlannedRequest, Target
from tokenswarm.wire.call import Call
from tokenswarm.wire.record import RequestRecord


class ModelUser(User):
    """What all our users share: the run they belong to and a sender of their own."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._generator: Generator | None = None
        self._sender: Sender | None = None
        self._seat: Seat | None = None
        self._sending = False

    def on_start(self) -> None:
        """Join the run that is on; without one (it could not start) the first task ends the user,
        since Locust takes a StopUser from here for a fault."""
        generator = self.environment.tokenswarm.generator
        if generator is None or generator.stopped:
            return
        self._generator = generator
        self._seat = generator.sit()
        generator.wait_for_t0()
        self._sender = Sender(generator, self.environment.events.request)

    def on_stop(self) -> None:
        """Leave the run."""
        if self._generator is not None and self._seat is not None:
            self._generator.leave(self._seat)
        if self._sender is not None:
            self._sender.close()
        self._generator = self._sender = self._seat = None

    def stop(self, force: bool = False) -> bool:
        """A user that others take over, or that a shape ends, ends after its request: only the
        end of the drain cuts."""
        if force and self._sending and self._generator and not self._generator.stopped:
            if self._state == LOCUST_STATE_STOPPING:
                return False
            force = False
        stopped: bool = super().stop(force)
        return stopped

    def _send(self, call: Call, route: Route, model: str, *more: Any) -> RequestRecord:
        assert self._sender is not None
        self._sending = True
        try:
            return self._sender.send(call, route, model, *more)
        finally:
            self._sending = False

    def _joined(self) -> Generator:
        if self._generator is None or self._sender is None:
            raise StopUser
        self._generator.resumed.wait()
        if self._generator.stopped:
            raise StopUser
        return self._generator


class _DirectUser(ModelUser):
    """A user that names its server (`host`) and model itself."""

    abstract = True
    api: ClassVar[Any] = "openai"
    engine: ClassVar[str] = "openai"
    model: str = ""
    api_key_env: str | None = None

    def _route(self, generator: Generator) -> Route:
        if not self.host:
            raise UsageError(
                f"{type(self).__name__} has no server: set host in the class or give --host URL"
            )
        target = Target(api=self.api, url=self.host, api_key_env=self.api_key_env)
        return generator.route(slug(self.host.split("://")[-1]), target, self.engine)

    def _ask(self, endpoint: Any, prompt: str, model: str | None, **fields: Any) -> RequestRecord:
        generator = self._joined()
        named = model or self.model
        if not named:
            raise UsageError(f"{type(self).__name__} has no model: set model in the class")
        route = self._route(generator)
        call = Call(
            api=self.api,
            endpoint=endpoint,
            model=named,
            prompt=prompt,
            stream_usage=route.knobs.stream_usage,
            **fields,
        )
        return self._send(call, route, slug(named))


class OpenAIUser(_DirectUser):
    """Talks `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings` to `host`."""

    abstract = True

    def chat(
        self,
        prompt: str,
        *,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = 128,
        stream: bool = True,
        **options: Any,
    ) -> RequestRecord:
        """Ask once and return the record. `options` go into the body (temperature=0, seed=1)."""
        return self._ask(
            "chat",
            prompt,
            model,
            system=system,
            output_tokens=max_tokens,
            stream=stream,
            options=options,
        )

    def complete(
        self,
        prompt: str,
        *,
        model: str | None = None,
        max_tokens: int | None = 128,
        stream: bool = True,
        **options: Any,
    ) -> RequestRecord:
        """Complete `prompt` once and return the record."""
        return self._ask(
            "completions", prompt, model, output_tokens=max_tokens, stream=stream, options=options
        )

    def embed(self, text: str, *, model: str | None = None) -> RequestRecord:
        """Embed `text` once and return the record."""
        return self._ask("embeddings", text, model, output_tokens=None, stream=False)


class OllamaUser(_DirectUser):
    """Talks Ollama's `/api/chat`, `/api/generate` and `/api/embed` to `host`."""

    abstract = True
    api: ClassVar[Any] = "ollama"
    engine: ClassVar[str] = "ollama"
    keep_alive: str | int | float | None = None

    def chat(
        self,
        prompt: str,
        *,
        model: str | None = None,
        system: str | None = None,
        num_predict: int | None = 128,
        **options: Any,
    ) -> RequestRecord:
        """Ask once and return the record. `options` are Ollama's (temperature=0, seed=1)."""
        return self._ask(
            "chat",
            prompt,
            model,
            system=system,
            output_tokens=num_predict,
            stream=True,
            options=options,
            keep_alive=self.keep_alive,
        )

    def generate(
        self,
        prompt: str,
        *,
        model: str | None = None,
        num_predict: int | None = 128,
        **options: Any,
    ) -> RequestRecord:
        """Generate from `prompt` once and return the record."""
        return self._ask(
            "generate",
            prompt,
            model,
            output_tokens=num_predict,
            stream=True,
            options=options,
            keep_alive=self.keep_alive,
        )

    def embed(self, text: str, *, model: str | None = None) -> RequestRecord:
        """Embed `text` once and return the record."""
        return self._ask(
            "embeddings",
            text,
            model,
            output_tokens=None,
            stream=False,
            keep_alive=self.keep_alive,
        )


class MixUser(ModelUser):
    """Plays the scenario given by --scenario: takes the next request of the mix, sends it."""

    abstract = True

    def wait_time(self) -> float:
        """Think time of a closed loop in seconds; an open loop waits in its schedule."""
        scenario = self._generator.scenario if self._generator else None
        load = scenario.load if scenario else None
        return load.think_s if isinstance(load, ClosedLoad) else 0.0

    @task
    def play(self) -> None:
        """Send one request of the mix; the user ends when there are no more."""
        generator = self._joined()
        pace = generator.pace
        seat = self._seat
        planned = pace.take(seat) if pace and seat else None
        if pace is None or planned is None:
            raise StopUser
        model = generator.models[planned.model]
        route = generator.routes[model.target]
        call = planned_call(planned, model, route)
        self._send(call, route, model.name, planned, pace.intended(planned), model.slo)


def planned_call(planned: PlannedRequest, model: Model, route: Route) -> Call:
    """The call for a planned request on its target."""
    exact = model.output.exact and model.endpoint != "embeddings"
    return Call(
        api=route.api,
        endpoint=model.endpoint,
        model=model.model,
        prompt=planned.prompt,
        system=model.system,
        messages=_messages(planned, model) if planned.history else None,
        output_tokens=None if model.endpoint == "embeddings" else planned.output_tokens,
        stream=model.stream and model.endpoint != "embeddings",
        options=dict(model.options),
        keep_alive=model.keep_alive,
        exact_length=route.knobs.exact_length if exact else None,
        min_tokens=exact and route.knobs.min_tokens,
        stream_usage=route.knobs.stream_usage,
    )


def _messages(planned: PlannedRequest, model: Model) -> tuple[dict[str, Any], ...]:
    """The conversation so far, and what comes next."""
    said: list[tuple[str, Any]] = [("system", model.system)] if model.system else []
    for prompt, reply in planned.history:
        said += [("user", prompt), ("assistant", reply)]
    said.append(("user", planned.prompt))
    return tuple({"role": role, "content": content} for role, content in said)
