"""The check-up of this machine: what works, what does not, and the command that mends it.

Nothing heavy is imported before it is asked for, and what may crash (a GL driver) or change the
process (a scheduler class) is tried in a process of its own. The remedy for
rendering was tried on a bare Debian 12 (each package left out once).

Next: `envs/renderer.py` (`probe`), `deploy_robot/realtime.py` (who uses the real-time rights).
"""

import importlib.metadata
import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .machine_checks import (
    Check,
    cores,
    disk,
    fifo,
    kernel,
    locked_memory,
    memory,
    run_python,
    shared_memory,
    system,
)

GL_PACKAGES = "libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
"""What a bare Debian or Ubuntu lacks: EGL and its software driver (rendering), libGL (PyOpenGL,
and OpenCV, which robosuite imports), GLib (OpenCV)."""
OTHER_SYSTEMS = "# elsewhere: what holds libEGL.so.1, libGL.so.1, Mesa's software driver and GLib"
DRAW_ONCE = (
    "import cv2, mujoco\n"
    "from {package}.envs.renderer import Renderer\n"
    "Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'))\n"
    "print('drawn')\n"
)


def check_up() -> list[Check]:
    """Look at everything; 3 to 8 seconds, most of it importing torch and robosuite."""
    with ThreadPoolExecutor() as pool:  # each of these waits for a process of its own
        slow = [pool.submit(check) for check in (_rendering, _robosuite, _lerobot, fifo)]
        quick = [check() for check in (_python, system, cores, memory, disk, _torch, _zarr)]
        rendering, robosuite, lerobot, realtime = [future.result() for future in slow]
    rest = [_video(), realtime, locked_memory(), shared_memory(), kernel()]
    return [*quick, rendering, robosuite, lerobot, *rest]


def print_check_up(console: Console | None = None) -> int:
    """Print the check-up; returns the exit code: 1 if anything fails, else 0."""
    console = console or Console()
    with console.status("looking at this machine"):
        checks = check_up()
    colors = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.status, colors[check.status]), Text(check.found))
    console.print(table)
    for check in checks:
        if check.mend:
            console.print(f"\n{check.name} ({check.status}), to mend it:", style="bold")
            # Plain and unwrapped: it is there to be copied.
            console.print(
                "  " + check.mend, markup=False, highlight=False, soft_wrap=True, style="cyan"
            )
    failed = [check.name for check in checks if check.status == "fail"]
    verdict = f"{', '.join(failed)}: must be mended first" if failed else "ready"
    console.print(f"\n{verdict}", style="bold red" if failed else "bold green")
    return 1 if failed else 0


def require_rendering() -> None:
    """Draw one picture the way environments do; about a second.

    Raises ValueError that says what is missing and the command that installs it.
    """
    error = run_python(DRAW_ONCE.format(package=_package()))
    if error is None:
        return
    raise ValueError(
        f"rendering without a display does not work here: {error}\n\n"
        f"To mend it:\n  {rendering_mend(error, _backends())}\n\n`ulna doctor` shows the rest."
    )


def rendering_mend(error: str, backends: dict[str, str]) -> str:
    """The command for a failed picture, given what every backend said (`ok` or its error)."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    working = [name for name in ("egl", "osmesa") if backends.get(name) == "ok"]
    # A missing shared library stops OpenCV before any backend is chosen.
    if working and not missing_library(error):
        if chosen and working[0] == "egl":
            return f"unset MUJOCO_GL  # it is {chosen!r}, and EGL works"
        return f"export MUJOCO_GL={working[0]}"
    return f"{apt_install(GL_PACKAGES)}  {OTHER_SYSTEMS}"


def missing_library(error: str) -> str:
    """The shared library a loader's error complains about; empty if it is another error."""
    match = re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file", error)
    return match.group(1) if match else ""


def apt_install(packages: str) -> str:
    """The command as this user types it. The update comes first: fresh containers have no list."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    install = f"{sudo}apt-get install -y --no-install-recommends {packages}"
    return f"{sudo}apt-get update && {install}"


def _package() -> str:
    return __name__.split(".")[0]


def _backends() -> dict[str, str]:
    from ..envs.renderer import probe

    return probe()


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.prefix}"
    if sys.version_info[:2] == (3, 12):
        return Check("Python", "ok", found)
    return Check("Python", "fail", f"{found}; lerobot and robosuite want 3.12", "uv sync -p 3.12")


def _torch() -> Check:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Check("torch", "ok", f"{torch.__version__}; cuda: {name}, CUDA {torch.version.cuda}")
    found = f"{torch.__version__}; computes on the CPU with {torch.get_num_threads()} threads"
    if Path("/proc/driver/nvidia/version").exists():
        found += f"; an NVIDIA driver is here, but torch (CUDA {torch.version.cuda}) cannot use it"
        return Check(
            "torch", "warn", found, "nvidia-smi  # is the driver new enough, is the card shown?"
        )
    return Check("torch", "ok", f"{found} (no NVIDIA driver)")


def _rendering() -> Check:
    backends = _backends()
    version = importlib.metadata.version("mujoco")
    said = ", ".join(f"{name}: {_first_line(answer)}" for name, answer in backends.items())
    error = run_python(DRAW_ONCE.format(package=_package()))
    if error is None:
        chosen = os.environ.get("MUJOCO_GL", "").lower() or "egl"
        others = [name for name, answer in backends.items() if answer == "ok" and name != chosen]
        also = f" (also works: {', '.join(others)})" if others else ""
        return Check("MuJoCo", "ok", f"{version}; draws through {chosen}{also}")
    mend = rendering_mend(error, backends)
    return Check("MuJoCo", "fail", f"{version}; draws nothing: {error} ({said})", mend)


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:120]


def _robosuite() -> Check:
    return _imported("robosuite", "import robosuite")


def _lerobot() -> Check:
    return _imported("lerobot", "import lerobot")


def _imported(name: str, script: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", "uv sync")
    error = run_python(script)
    if error is None:
        return Check(name, "ok", version)
    mend = apt_install(GL_PACKAGES) if missing_library(error) else "uv sync --reinstall"
    return Check(name, "fail", f"{version} cannot be imported: {error}", mend)


def _zarr() -> Check:
    version = importlib.metadata.version("zarr")
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 4):
        return Check("zarr", "fail", f"{version} can return wrong bytes", "uv sync")
    return Check("zarr", "ok", version)


def _video() -> Check:
    import av
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    try:
        name = Codec("libx264", "w").long_name
    except UnknownCodecError as error:
        found = f"PyAV {av.__version__} has no libx264: {error}"
        return Check("video", "fail", found, "uv pip install --reinstall --only-binary :all: av")
    return Check("video", "ok", f"PyAV {av.__version__}, {name}")
