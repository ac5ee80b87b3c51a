"""A base image made of this machine's own Python and Debian's busybox: for building our images
where no registry can be reached. It stands in for python:3.12-slim."""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pip

LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
}
ALSO = ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libpthread.so.0", "libdl.so.2")
"""What wheels for Linux take for granted."""


def base_image() -> bytes:
    """A tar of the whole file system, for `docker import`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        done: set[str] = set()
        for path in (*_python(), *_libraries()):
            _add(tar, path, done)
        _pip(tar)
        _busybox(tar)
        _link(tar, "usr/bin/python3", str(Path(sys.executable).resolve()))
        _directory(tar, "tmp", 0o1777)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    return content.getvalue()


def _python() -> Iterator[Path]:
    """The interpreter and its standard library."""
    yield Path(sys.executable).resolve()
    paths = sysconfig.get_paths()
    for folder in {Path(paths["stdlib"]), Path(paths["platstdlib"])}:
        real = Path(sys.base_prefix) / folder.relative_to(sys.prefix) if _inside(folder) else folder
        for parent, folders, files in os.walk(real):
            folders[:] = [f for f in folders if f not in LEFT_OUT and not f.startswith("config-")]
            yield from (Path(parent) / name for name in files)


def _inside(folder: Path) -> bool:
    return folder.is_relative_to(sys.prefix) and sys.prefix != sys.base_prefix


def _libraries() -> Iterator[Path]:
    """Shared libraries of all that, the loader among them."""
    modules = [str(p) for p in _python() if p.suffix == ".so"]
    programs = [str(Path(sys.executable).resolve()), *modules]
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    for path in set(re.findall(r"(/\S+) \(0x", said)):
        yield Path(path)
    for name in ALSO:
        if found := re.search(rf"{re.escape(name)} \(.*x86-64.*=> (\S+)", known.stdout):
            yield Path(found[1])


def _add(tar: tarfile.TarFile, path: Path, done: set[str]) -> None:
    """A file under its own name, whatever links lead to it; folders that anybody may enter."""
    name = str(path).lstrip("/")
    if name in done:
        return
    done.add(name)
    for parent in reversed([*Path(name).parents][:-1]):
        if str(parent) not in done:
            done.add(str(parent))
            _directory(tar, str(parent), 0o755)
    _file(tar, name, path.read_bytes(), path.stat().st_mode & 0o755 | 0o444)


def _pip(tar: tarfile.TarFile) -> None:
    """This environment's pip, beside the standard library: every Python looks there."""
    source = Path(pip.__file__).parent
    target = str(Path(os.__file__).parent).lstrip("/")
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            _file(tar, f"{target}/pip/{path.relative_to(source)}", path.read_bytes())


def _busybox(tar: tarfile.TarFile) -> None:
    program = Path("/bin/busybox")
    _file(tar, "bin/busybox", program.read_bytes(), 0o755)
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            _link(tar, f"bin/{applet}", "/bin/busybox")


def _directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))
