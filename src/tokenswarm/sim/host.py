"""The host's page cache: a model's file is read from disk once, then from memory."""

from collections import OrderedDict

from tokenswarm.sim.profile import HostSpec, Model


class PageCache:
    """Least recently used files make room. A file is in it as a whole or not at all."""

    def __init__(self, spec: HostSpec, models: tuple[Model, ...]):
        self._spec = spec
        self._files: OrderedDict[str, int] = OrderedDict()
        if spec.cached:
            for model in models:
                self.read(model)

    def holds(self, model: Model) -> bool:
        return model.name in self._files

    def bytes_per_s(self, model: Model) -> float:
        """How fast the file would be read now."""
        return self._spec.cache_bytes_per_s if self.holds(model) else self._spec.disk_bytes_per_s

    def read(self, model: Model) -> None:
        """The whole file has been read: it is cached now, if it fits."""
        self._files.pop(model.name, None)
        self._files[model.name] = model.file_bytes
        while sum(self._files.values()) > self._spec.cache_bytes:
            self._files.popitem(last=False)
