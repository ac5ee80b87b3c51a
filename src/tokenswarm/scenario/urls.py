"""`TARGET=URL` on a command line, and an agent's `HOST:PORT`."""

from collections.abc import Iterable

from tokenswarm.errors import UsageError

MAX_PORT = 65535


def agent_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT` in parts; a scheme before it is passed over. UsageError."""
    rest = text.partition("://")[2] or text
    host, colon, port = rest.rstrip("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    good = colon and host and not set(host) & set("/@?# ")
    if not (good and port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise UsageError("is no address of an agent; give HOST:PORT, as gpu:7070")
    return host, int(port)


def target_urls(pairs: Iterable[str]) -> dict[str, str]:
    """`["box=http://h:1"]` as `{"box": "http://h:1"}`; UsageError for anything else."""
    urls = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not (name and equals and url):
            raise UsageError(f"{pair!r} is not TARGET=URL, as in box=http://127.0.0.1:11434")
        urls[name] = url
    return urls
