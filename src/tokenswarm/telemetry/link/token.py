"""The secret that an agent and its subscribers share, and proofs of knowing it."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from tokenswarm.errors import UsageError

VARIABLE = "TOKENSWARM_AGENT_TOKEN"
MIN_LENGTH = 16
MAX_LENGTH = 4096
WAY = "make one with `openssl rand -hex 32` and give the same to both sides"


def read_token(
    file: str | None, variable: str = VARIABLE, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The token in `file`, else in the file that `{variable}_FILE` names, else in `variable`;
    None when there is none. UsageError when it cannot be read or is too short."""
    file = file or environ.get(f"{variable}_FILE") or None
    if file is None:
        text, place = environ.get(variable, ""), f"${variable}"
        if not text:
            return None
    else:
        text, place = _text(file), file
    token = text.strip()
    if not MIN_LENGTH <= len(token) <= MAX_LENGTH:
        raise UsageError(
            f"{place}: an agent's token has {MIN_LENGTH} to {MAX_LENGTH} characters, this has "
            f"{len(token)}; {WAY}"
        )
    return token


def _text(file: str) -> str:
    try:
        with Path(file).open(encoding="utf-8") as f:
            return f.read(MAX_LENGTH + 2)
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{file}: the agent's token cannot be read: {e}; {WAY}") from None


def proof(token: str | None, side: str, theirs: bytes, ours: bytes) -> bytes:
    """Shows that `side` knows `token`, without telling it: HMAC-SHA256 over both sides' nonces,
    the asking side's first. Empty without a token."""
    if token is None:
        return b""
    return hmac.digest(token.encode(), side.encode() + b"\0" + theirs + ours, hashlib.sha256)


def same(a: bytes, b: bytes) -> bool:
    """Compare proofs in a time that tells nothing."""
    return hmac.compare_digest(a, b)
