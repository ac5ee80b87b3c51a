"""A driver without a GPU: fake_nvml/nvml.c, compiled here, loaded by the real nvidia-ml-py.

driver.says("gpu0.power_mw = 300000")     from the next call on
driver.says("@0.5 gpu0.lost = 1")         half a second after NVML was first started
"""

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pynvml
import pytest

SOURCE = Path(__file__).parent / "fake_nvml" / "nvml.c"
NAME = "libnvidia-ml.so.1"
MIB = 1 << 20

CARD = f"""\
GPU.uuid = GPU-of-GPU
GPU.name = Some GPU
GPU.memory = {100 * MIB} {10 * MIB} {60 * MIB} {40 * MIB}
GPU.util = 50 25
GPU.power_mw = 123456
GPU.sm_mhz = 1980
GPU.memory_mhz = 3201
GPU.throttle = 4
GPU.processes = 1:{7 * MIB}
GPU.graphics =
GPU.field.83 = 5000
GPU.field.186 = 99500
GPU.field.82 = 47
GPU.temperature_c = 41
GPU.ecc_corrected = 3
GPU.ecc_uncorrected = 0
GPU.pcie_tx_kb_per_s = 7
GPU.pcie_rx_kb_per_s = 9
"""


def card(name: str = "gpu0") -> str:
    """The script of a GPU that has everything but MIG."""
    return CARD.replace("GPU.", f"{name}.").replace("GPU-of-GPU", f"GPU-{name}")


@cache
def _compiled(without: tuple[str, ...]) -> Path:
    """The library, less the functions that an older driver lacks."""
    folder = TemporaryDirectory(prefix="fake-nvml-")
    _KEPT.append(folder)
    out, hidden = Path(folder.name) / NAME, Path(folder.name) / "hidden"
    names = " ".join(f"{name};" for name in without)
    hidden.write_text(f"{{ global: nvml*; local: {names} }};\n")
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(SOURCE)]
    command += [f"-Wl,--version-script={hidden}"] if without else []
    subprocess.run([*command, "-o", str(out), "-lpthread"], check=True, timeout=60)
    return out


_KEPT: list[TemporaryDirectory[str]] = []


class FakeDriver:
    """One driver with a state of its own. `env` lets another process load it."""

    def __init__(self, folder: Path, *without: str):
        folder.mkdir()
        self._script, self._log = folder / "script", folder / "calls"
        self.library = Path(shutil.copy(_compiled(tuple(without)), folder / NAME))
        self._text = ""
        self.env = {
            "FAKE_NVML": str(self._script),
            "FAKE_NVML_CALLS": str(self._log),
            "LD_LIBRARY_PATH": str(folder),
        }
        self.says("driver = 580.1\nnvml = 13.580\ncount = 1\n" + card())

    def says(self, *lines: str) -> None:
        """Add lines; the last one of a key counts."""
        self._text += "".join(f"{line}\n" for line in lines)
        new = self._script.with_suffix(".new")
        new.write_text(self._text)
        new.rename(self._script)

    def lacks(self, key: str) -> None:
        """Take a key away: what it stands for is not supported from now on."""
        kept = [line for line in self._text.splitlines() if not line.startswith(f"{key} = ")]
        self._text = ""
        self.says(*kept)

    def calls(self) -> Counter[tuple[str, str]]:
        """How often each device was asked each function; "-" for calls without a device."""
        if not self._log.exists():
            return Counter()
        pairs = (line.split(" ") for line in self._log.read_text().splitlines())
        return Counter((device, function) for device, function in pairs)


Install = Callable[..., FakeDriver]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(*functions that it lacks)` puts a driver under this process's nvidia-ml-py."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: install gcc")

    def put(*without: str) -> FakeDriver:
        driver = FakeDriver(tmp_path / "driver", *without)
        for name in ("FAKE_NVML", "FAKE_NVML_CALLS"):
            monkeypatch.setitem(os.environ, name, driver.env[name])
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(driver.library)))
        pynvml._nvmlGetFunctionPointer_cache.clear()
        return driver

    yield put
    pynvml._nvmlGetFunctionPointer_cache.clear()
