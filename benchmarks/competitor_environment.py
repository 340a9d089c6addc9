"""What competitors need around them before Python starts: environment variables, made here.

    LeRobot            torchcodec looks for FFmpeg's libraries by their plain names; PyAV brings
                       them along under names of its own, so a folder of links joins the two
    diffusion_policy   its code speaks zarr 2: zarr 2 and its numcodecs go into a folder that
                       Python looks into first; everything else is shared with Ulna

OMP_NUM_THREADS=1 is for all: torch's idle threads spin, which costs a loader (theirs and ours)
CPU time and gains none of them a sample per second. diffusion_policy's own datasets do the same.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ZARR2 = (
    "zarr==2.18.7",
    "numcodecs==0.15.2",
    "asciitree==1.0.0",
    "fasteners==0.20",
    "deprecated==3.0.1",
    "wrapt==2.5.2",
)
"""zarr 2 and what it needs that Ulna's environment lacks."""


def environment(competitor: str, data: Path, diffusion_policy: Path | None) -> dict[str, str]:
    """Environment of the process that runs a competitor, or Ulna."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SVT_LOG": "1"}
    if competitor.startswith("lerobot"):
        found["LD_LIBRARY_PATH"] = str(_ffmpeg_folder(data / "ffmpeg"))
    elif competitor.startswith("diffusion_policy"):
        if diffusion_policy is None or not (diffusion_policy / "diffusion_policy").is_dir():
            raise ValueError(
                f"--diffusion-policy {diffusion_policy} is no checkout of "
                "real-stanford/diffusion_policy: it has no folder diffusion_policy"
            )
        paths = (_zarr2_folder(data / "zarr2"), diffusion_policy.absolute())
        found["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return found


def _ffmpeg_folder(folder: Path) -> Path:
    import av

    folder.mkdir(parents=True, exist_ok=True)
    libraries = Path(av.__file__).parents[1] / "av.libs"
    for path in libraries.iterdir():
        # libavcodec-7ee0753d.so.61.19.101 is libavcodec.so.61 to whoever looks for it; the
        # libraries find each other by their full names beside them.
        plain = re.sub(r"^(lib(?:av|sw)\w+)-\w+(\.so\.\d+).*", r"\1\2", path.name)
        for name in {plain, path.name}:
            link = folder / name
            if not (link.is_symlink() and link.resolve() == path.resolve()):
                link.unlink(missing_ok=True)
                link.symlink_to(path)
    return folder.absolute()


def _zarr2_folder(folder: Path) -> Path:
    note = folder / "installed.txt"
    wanted = "\n".join(ZARR2)
    if not note.exists() or note.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv")
        if uv is None:
            raise ValueError("uv is needed to install zarr 2; it is not on the PATH")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", folder, *ZARR2], check=True)
        note.write_text(wanted)
    return folder.absolute()
