"""What the machine and its kernel offer the control loop, each as one `Check` with its remedy.

Next: `deploy_robot/doctor.py` (the whole check-up), `deploy_robot/realtime.py` (uses the rights).
"""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]
GIB = 2**30
ASK_FOR_FIFO = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))"
"""Asked in a process of its own, so that this one keeps its scheduler."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    """`fail`: the demo cannot run. `warn`: it runs, slower or less evenly."""
    found: str
    mend: str = ""
    """The command that mends it, exactly as it is typed; empty if all is well."""


def system() -> Check:
    name = platform.system()
    if name == "Linux" and Path("/etc/os-release").exists():
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    return Check("system", "ok", f"{name}, kernel {platform.release()}, {platform.machine()}")


def cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_cores()
    text = _read("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", text)
    flags = set(" ".join(re.findall(r"(?:flags|Features)\s*:\s*(.+)", text)).split())
    fast = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "asimd"})
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    limit = f" (limited to {quota:.1f} by the container)" if quota and quota < cores else ""
    found = (
        f"{cores} x {models[0] if models else platform.machine()}{limit}; {', '.join(fast)}; bf16 "
        + ("in hardware: training uses it" if bf16 else "not in hardware: training uses fp32")
    )
    if min(cores, quota or cores) < 2:
        mend = "docker run --cpus=2 ...  # or a machine with 2 cores"
        return Check("cores", "warn", f"{found}; the control loop and the policy share one", mend)
    return Check("cores", "ok", found)


def _cgroup_cores() -> float:
    """CPU quota of this container in cores; 0 without one."""
    words = _read("/sys/fs/cgroup/cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else 0.0


def memory() -> Check:
    sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo")))
    if "MemAvailable" not in sizes:
        return Check("memory", "warn", "unknown: /proc/meminfo is not there", "free -h")
    available, total = (int(sizes[name]) * 1024 for name in ("MemAvailable", "MemTotal"))
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and int(limit) < total:
        used = int(_read("/sys/fs/cgroup/memory.current").strip() or 0)
        total, available = int(limit), min(available, int(limit) - used)
    found = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if available < 4 * GIB:
        mend = "ps aux --sort=-rss | head  # close what is not needed; the demo takes about 4 GiB"
        return Check("memory", "warn" if available > 2 * GIB else "fail", found, mend)
    return Check("memory", "ok", found)


def disk() -> Check:
    free = shutil.disk_usage(".").free
    found = f"{free / GIB:.1f} GiB free in the current folder"
    if free < 3 * GIB:
        mend = "ulna demo --out /on/a/larger/disk  # the demo takes about 1 GiB"
        return Check("disk", "warn" if free > GIB else "fail", found, mend)
    return Check("disk", "ok", found)


def fifo() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_RTPRIO)
    limits = f"RLIMIT_RTPRIO {soft} (hard {hard})"
    error = run_python(ASK_FOR_FIFO)
    if error is None:
        return Check("real time", "ok", f"SCHED_FIFO granted; {limits}")
    found = f"SCHED_FIFO refused ({error}); {limits}. The loop runs, with rare late ticks"
    return Check("real time", "warn", found, _limits_mend("rtprio", "20", "--cap-add=SYS_NICE"))


def locked_memory() -> Check:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Check("locked memory", "ok", "unlimited")
    found = f"{soft // 1024} KiB may be locked; a page fault can make a tick late"
    mend = _limits_mend("memlock", "unlimited", "--ulimit memlock=-1")
    return Check("locked memory", "warn", found, mend)


def _limits_mend(limit: str, value: str, docker: str) -> str:
    """A right that the login grants, or the container."""
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return f"docker run {docker} ...  # this is a container"
    line = f"{os.environ.get('USER', '') or os.geteuid()} - {limit} {value}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"echo '{line}' | {sudo}tee -a /etc/security/limits.d/ulna.conf  # and log in again"


def shared_memory() -> Check:
    if not Path("/dev/shm").exists():
        return Check("shared memory", "warn", "no /dev/shm on this system", "mount | grep shm")
    size = shutil.disk_usage("/dev/shm").total
    found = f"/dev/shm holds {size / GIB:.2f} GiB"
    if size < GIB // 4:
        mend = "sudo mount -o remount,size=1g /dev/shm  # in a container: docker run --shm-size=1g"
        return Check("shared memory", "warn", found, mend)
    return Check("shared memory", "ok", found)


def kernel() -> Check:
    realtime = _read("/sys/kernel/realtime").strip() == "1" or "PREEMPT_RT" in platform.version()
    if realtime:
        return Check("kernel", "ok", "PREEMPT_RT")
    model = re.search(r"PREEMPT\w*", platform.version())
    kind = model.group(0) if model else "no preemption stated"
    return Check("kernel", "ok", f"{kind}, not PREEMPT_RT: enough for 20 to 100 Hz")


def run_python(script: str, timeout_s: float = 60.0) -> str | None:
    """Run `script` in a fresh interpreter; None if it ends well, else the last line it said."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    if run.returncode == 0:
        return None
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    # NO_GL of envs/renderer.py spans lines; its first one names what was tried.
    named = [line for line in lines if re.match(r"\w+(\.\w+)*(Error|Exception)\b", line)]
    return (named or lines or [f"ended with code {run.returncode}"])[-1][:300]


def _read(path: str) -> str:
    """A file of the kernel's; empty where the system has no such file."""
    return Path(path).read_text() if Path(path).exists() else ""
