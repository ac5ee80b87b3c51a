"""The agents that a scenario names, asked before anything starts."""

from dataclasses import dataclass

from tokenswarm.errors import UsageError
from tokenswarm.scenario.model import Telemetry
from tokenswarm.telemetry.config import Agent
from tokenswarm.telemetry.link.subscriber import connect
from tokenswarm.telemetry.link.token import read_token
from tokenswarm.telemetry.link.wire import About, LinkError, RefusedError


@dataclass(frozen=True, slots=True)
class MetAgent:
    """An agent and what it says of itself."""

    agent: Agent
    about: About


def meet(telemetry: Telemetry) -> tuple[MetAgent, ...]:
    """Ask every agent of a scenario. UsageError names the first that cannot be used."""
    return tuple(MetAgent(agent, ask_about(agent)) for agent in agents_of(telemetry))


def agents_of(telemetry: Telemetry) -> list[Agent]:
    """The agents of a scenario with their token. UsageError: it cannot be read."""
    if not telemetry.agents:
        return []
    token = read_token(telemetry.agent_token_file, telemetry.agent_token_env)
    wanted = telemetry.gpu.source in ("auto", "agent")
    return [Agent(a, token, gpu=wanted) for a in dict.fromkeys(telemetry.agents)]


def ask_about(agent: Agent) -> About:
    """What `agent` says of itself. UsageError names it and says the way out."""
    place = f"agent {agent.address}"
    try:
        channel, about = connect(agent)
    except RefusedError as e:
        raise UsageError(f"{place} refuses us: {e}: give the token that it has") from None
    except LinkError as e:
        raise UsageError(
            f"{place}: {e}: start it there with `tokenswarm agent gpu --listen HOST:PORT "
            "--token-file FILE`, let the firewall pass it, or take it out of telemetry.agents"
        ) from None
    except UsageError as e:
        raise UsageError(f"{place} {e}") from None
    channel.close()
    return about
