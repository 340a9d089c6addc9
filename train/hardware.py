"""Which device and which number format a run computes in: chosen once, said aloud, saved."""

import os
from pathlib import Path

import numpy as np
import torch

from ..datasets.gather import Allocate


def choose_device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device cuda, but torch {torch.__version__} sees no CUDA device; "
            "use --device cpu or look at `ulna doctor`"
        )
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """`auto` becomes bf16 where bf16 arithmetic is in the hardware, else fp32."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_computes_bf16() else "fp32"


def cpu_computes_bf16() -> bool:
    """Whether the processor has bf16 products (AVX512-BF16 or AMX; bf16 on Arm). A prototype
    on 2 cores with AVX512-BF16 trained 5 times faster than in fp32; without such products bf16 is
    emulated, which was not measured."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return False
    text = listing.read_text()
    flags = {
        word
        for line in text.splitlines()
        if "flags" in line.lower() or "Features" in line
        for word in line.partition(":")[2].split()
    }
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def choose_threads(wanted: int) -> int:
    return wanted or len(os.sched_getaffinity(0))


def allocator(device: str) -> Allocate:
    """Makes the arrays of batches: pinned where a GPU copies from them, which it then does faster
    and without a copy of the driver's own."""
    if device != "cuda":
        return np.empty
    return lambda shape, dtype: torch.empty(
        shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True
    ).numpy()
