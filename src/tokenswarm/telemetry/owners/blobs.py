"""Names of Ollama's models by the file that a runner was started with (`…/blobs/sha256-HEX`)."""

import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from tokenswarm.engines.ollama import Ollama
from tokenswarm.errors import TargetError
from tokenswarm.telemetry.config import Engine

BLOB = re.compile(r"(?P<store>.*)/blobs/sha256-(?P<digest>[0-9a-f]{64})")
MODEL_LAYER = "application/vnd.ollama.image.model"
OWN_HOST, OWN_NAMESPACE = "registry.ollama.ai", "library"
MAX_MANIFEST = 1 << 20
MAX_MANIFESTS = 5000
SHOW_TIMEOUT_S = 2.0
SHOW_AGAIN_S = 1.0
SHOW_ATTEMPTS = 20


class _Layer(msgspec.Struct):
    mediaType: str = ""
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def digest_of(path: str) -> str | None:
    """The 64 hex digits of a blob's path; None for any other path."""
    found = BLOB.fullmatch(path)
    return found["digest"] if found else None


def store_of(path: str) -> str | None:
    """The directory of models that holds the blob, as the runner sees it."""
    found = BLOB.fullmatch(path)
    return found["store"] if found else None


def names_in(store: Path, digest: str) -> list[str]:
    """Ollama's names of the models whose weights are the blob `digest`, by the manifests in
    `store` (`manifests/HOST/NAMESPACE/MODEL/TAG`); empty where they cannot be read."""
    root = store / "manifests"
    return sorted(
        _name(path.relative_to(root).parts)
        for path in _manifests(root)
        if digest in _weights(path)
    )  # fmt: skip


class ShownBlobs:
    """Asks the Ollamas among `engines`, where the manifests cannot be read, for the blob of each
    model of the scenario. That takes a thread of its own, from the first question on: the caller
    samples a GPU and never waits."""

    def __init__(self, engines: Iterable[Engine]):
        self._unasked = [(e, m) for e in engines if e.engine == "ollama" for m in e.models]
        self._names: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def __call__(self, digest: str) -> str | None:
        """Ollama's name of the model in the blob with these 64 hex digits, if it is known yet."""
        if self._thread is None and self._unasked:
            self._thread = threading.Thread(target=self._ask_all, name="blobs", daemon=True)
            self._thread.start()
        return self._names.get(digest)

    def _ask_all(self) -> None:
        for _ in range(SHOW_ATTEMPTS):
            self._unasked = [one for one in self._unasked if not self._ask(*one)]
            if not self._unasked:
                return
            time.sleep(SHOW_AGAIN_S)

    def _ask(self, engine: Engine, model: str) -> bool:
        """Whether it was answered."""
        there = Ollama(engine.headers, engine.tls_verify)
        try:
            blob = there.blob(engine.url, model, SHOW_TIMEOUT_S)
        except TargetError:
            return False
        if blob is not None:
            self._names[blob] = model
        return True


def _manifests(root: Path) -> Iterator[Path]:
    """Never follows a link: what is in a container's store may point anywhere on the host."""
    pending, seen = [(root, 0)], 0
    while pending and seen < MAX_MANIFESTS:
        folder, depth = pending.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        for path in entries:
            seen += 1
            if path.is_symlink():
                continue
            if depth < 3 and path.is_dir():
                pending.append((path, depth + 1))
            elif depth == 3 and path.is_file():
                yield path


def _weights(path: Path) -> set[str]:
    try:
        with path.open("rb") as f:
            manifest = msgspec.json.decode(f.read(MAX_MANIFEST), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return set()
    return {
        layer.digest.removeprefix("sha256:")
        for layer in manifest.layers
        if layer.mediaType == MODEL_LAYER
    }


def _name(parts: tuple[str, ...]) -> str:
    host, namespace, model, tag = parts
    prefix = [p for p, own in ((host, OWN_HOST), (namespace, OWN_NAMESPACE)) if p != own]
    if host != OWN_HOST and namespace == OWN_NAMESPACE:
        prefix = [host, namespace]
    return str(PurePosixPath(*prefix, f"{model}:{tag}"))
