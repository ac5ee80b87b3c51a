"""`TARGET=URL` on a command line."""

from collections.abc import Iterable

from tokenswarm.errors import UsageError


def target_urls(pairs: Iterable[str]) -> dict[str, str]:
    """`["box=http://h:1"]` as `{"box": "http://h:1"}`; UsageError for anything else."""
    urls = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not (name and equals and url):
            raise UsageError(f"{pair!r} is not TARGET=URL, as in box=http://127.0.0.1:11434")
        urls[name] = url
    return urls
