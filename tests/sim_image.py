"""An image of the simulator, built by a real Docker engine from this machine's own Python.

The base image's root file system holds the interpreter, its standard library, the C libraries that
it links to and the three packages that the simulator imports; the image itself is built from a
Dockerfile with `ARG BASE`, as one would build it on any base with Python.
"""

import importlib
import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import tokenswarm

BASE, IMAGE, UNHEALTHY = "tokenswarm-python:1", "tokenswarm-sim:1", "tokenswarm-sim-unhealthy:1"
PACKAGES = ("msgspec", "httptools", "yaml")
LEFT_OUT = {"test", "idlelib", "lib2to3", "ensurepip", "site-packages", "__pycache__", "tkinter",
            "turtledemo", "distutils"}  # fmt: skip
DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY tokenswarm /opt/tokenswarm/tokenswarm
ENV PYTHONPATH=/opt/tokenswarm PATH=/opt/python/bin
HEALTHCHECK --interval=1s --timeout=5s --retries=HEALTH
ENTRYPOINT ["python3", "-m", "tokenswarm.sim"]
"""
HEALTHY = '2 CMD ["python3", "-c", "pass"]'
SICK = '1 CMD ["python3", "-c", "raise SystemExit(\'the doctor says no\')"]'


def build(client: Any) -> None:
    """Import the base image and build IMAGE and UNHEALTHY on it."""
    client.import_image_from_data(_base(), repository=BASE[:-2], tag="1")
    for tag, health in ((IMAGE, HEALTHY), (UNHEALTHY, SICK)):
        context = _context(DOCKERFILE.replace("HEALTH\n", f"{health}\n"))
        lines = client.build(fileobj=context, custom_context=True, tag=tag, rm=True, decode=True,
                             buildargs={"BASE": BASE}, network_mode="none")  # fmt: skip
        said = [line["error"] for line in lines if "error" in line]
        assert not said, said


def _context(dockerfile: str) -> io.BytesIO:
    """A build context: the Dockerfile and the package's simulator."""
    out = io.BytesIO()
    package = Path(tokenswarm.__file__).parent
    with tarfile.open(fileobj=out, mode="w") as tar:
        _text(tar, "Dockerfile", dockerfile)
        tar.add(package / "__init__.py", "tokenswarm/__init__.py")
        tar.add(package / "sim", "tokenswarm/sim", filter=_kept)
    out.seek(0)
    return out


def _base() -> bytes:
    out = io.BytesIO()
    home = Path(sys.base_prefix)
    version = f"python{sysconfig.get_python_version()}"
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(Path(sys.executable).resolve(), "opt/python/bin/python3")
        tar.add(home / "lib" / version, f"opt/python/lib/{version}", filter=_kept)
        for name in PACKAGES:
            folder = Path(importlib.import_module(name).__file__ or "").parent
            tar.add(folder, f"opt/python/lib/{version}/site-packages/{name}", filter=_kept)
        for library in sorted(_libraries(home)):
            tar.add(library.resolve(), str(library).lstrip("/"))
        _text(tar, "etc/hosts", "127.0.0.1 localhost\n")
        for name in ("tmp", "root"):
            folder_entry = tarfile.TarInfo(name)
            folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder_entry)
    return out.getvalue()


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in LEFT_OUT or name.endswith(".a") or "config-" in name else entry


def _libraries(home: Path) -> set[Path]:
    """What the interpreter and the extension modules link to, the loader included."""
    modules = [Path(sys.executable).resolve(), *home.glob("lib/python3*/lib-dynload/*.so")]
    for name in PACKAGES:
        modules += Path(importlib.import_module(name).__file__ or "").parent.rglob("*.so")
    said = subprocess.run(["ldd", *map(str, modules)], capture_output=True, text=True, check=False)
    return {Path(p) for p in re.findall(r"(/\S+\.so[.\d]*) \(0x", said.stdout)}


def _text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    tar.addfile(entry, io.BytesIO(text.encode()))
