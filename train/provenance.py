"""What a result was made with: which checkpoint, which versions, which machine.

Next: `train/evaluate.py` (`results.json` holds all of it).
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLICY_FILES = ("model.safetensors", "config.json", "norm_stats.json", "tokenizer.json")
PACKAGES = (
    "ulna", "mujoco", "robosuite", "metaworld", "gym-aloha", "gym-pusht", "hf-libero", "numba",
    "numpy", "torch", "diffusers", "zarr", "lerobot",
)  # fmt: skip


def checkpoint_hash(run: Path) -> str:
    """SHA-256 over weights, config, statistics and tokenizer of a policy or training run."""
    folder = run if (run / "config.json").exists() else run / "policy"
    found = [folder / name for name in POLICY_FILES if (folder / name).exists()]
    vlm = folder / "vlm"
    found += sorted(path for path in vlm.rglob("*") if path.is_file()) if vlm.exists() else []
    digest = hashlib.sha256()
    for path in found:
        digest.update(f"{path.relative_to(folder)} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of what an outcome depends on, and the commit of ulna, if it runs from one."""
    found = {"python": platform.python_version()}
    found |= {name.replace("-", "_"): said for name in PACKAGES if (said := version(name))}
    if (ROOT / ".git").exists():
        try:
            asked = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return found  # no git here
        if asked.returncode == 0:
            found["commit"] = asked.stdout.strip()
    return found


def machine() -> dict[str, str | int]:
    """What a reader needs to place timings; no names of hosts or users."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "os": platform.system() + " " + platform.release(),
    }


def version(name: str) -> str:
    """Of an installed package; empty if it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
