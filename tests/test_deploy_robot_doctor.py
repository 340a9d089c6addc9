"""The check-up: its findings on this machine, its advice on worse ones."""

import io
import os
import subprocess
import time

import pytest
from rich.console import Console

from ulna.deploy_robot import doctor, machine_checks
from ulna.deploy_robot.machine_checks import Check


def test_the_check_up_looks_at_everything_and_changes_nothing():
    scheduler, began = os.sched_getscheduler(0), time.monotonic()
    checks = {check.name: check for check in doctor.check_up()}
    assert set(checks) == {
        "Python", "system", "cores", "memory", "disk", "torch", "MuJoCo", "robosuite", "lerobot",
        "zarr", "video", "real time", "locked memory", "shared memory", "kernel",
    }  # fmt: skip
    assert os.sched_getscheduler(0) == scheduler
    assert time.monotonic() - began < 60
    for check in checks.values():
        assert check.found
        assert bool(check.mend) == (check.status != "ok"), check
    assert "CPU" in checks["torch"].found or "cuda" in checks["torch"].found


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)], ids=["ok", "warn", "fail"]
)
def test_only_a_failure_changes_the_exit_code_and_the_remedy_is_not_wrapped(
    monkeypatch, status, code
):
    mend = "" if status == "ok" else "apt-get install -y [one] " + "package-name " * 20
    monkeypatch.setattr(doctor, "check_up", lambda: [Check("thing", status, "found [it]", mend)])
    page = io.StringIO()
    assert doctor.print_check_up(Console(file=page, width=60)) == code
    assert "found [it]" in page.getvalue()
    assert mend.strip() in page.getvalue()


def test_rendering_that_works_is_not_complained_about():
    doctor.require_rendering()


NO_EGL = "AttributeError: 'NoneType' object has no attribute 'eglQueryString'"
NO_XCB = "ImportError: libxcb.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "backends", "chosen", "advice"),
    [
        (NO_EGL, {"egl": NO_EGL, "osmesa": "no"}, "", "apt-get install -y"),
        (NO_XCB, {"egl": NO_EGL, "osmesa": "no"}, "", doctor.GL_PACKAGES),
        (NO_XCB, {"egl": "ok", "osmesa": "no"}, "", doctor.GL_PACKAGES),
        (NO_EGL, {"egl": NO_EGL, "osmesa": "ok"}, "", "export MUJOCO_GL=osmesa"),
        ("no display", {"egl": "ok", "osmesa": "no"}, "glfw", "unset MUJOCO_GL"),
    ],
)
def test_the_advice_fits_what_is_missing(monkeypatch, error, backends, chosen, advice):
    monkeypatch.setenv("MUJOCO_GL", chosen)
    assert advice in doctor.rendering_mend(error, backends)


def test_missing_rendering_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "run_python", lambda script: NO_XCB)
    monkeypatch.setattr(doctor, "_backends", lambda: {"egl": NO_EGL, "osmesa": "no"})
    with pytest.raises(ValueError, match="libxcb.so.1(.|\n)*apt-get install") as caught:
        doctor.require_rendering()
    assert doctor.GL_PACKAGES in str(caught.value)


@pytest.mark.parametrize(("user", "sudo"), [(0, False), (1000, True)])
def test_the_command_is_typed_as_this_user_must(monkeypatch, user, sudo):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert doctor.apt_install("x").count("sudo ") == (2 if sudo else 0)


def test_every_remedy_is_something_a_shell_can_read(monkeypatch):
    # The worst machine: nothing is granted, everything is small.
    monkeypatch.setattr(machine_checks, "run_python", lambda script: "PermissionError")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(machine_checks.resource, "getrlimit", lambda which: (0, 0))
    small = type("Usage", (), {"free": 0, "total": 0})
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda path: small)
    checks = [
        look()
        for look in (
            machine_checks.cores, machine_checks.disk, machine_checks.fifo,
            machine_checks.locked_memory, machine_checks.shared_memory,
        )
    ]  # fmt: skip
    assert [check.status for check in checks] == ["warn", "fail", "warn", "warn", "warn"]
    mends = [check.mend for check in checks] + [doctor.rendering_mend(NO_XCB, {})]
    for mend in mends:
        assert mend
        assert subprocess.run(["bash", "-n", "-c", mend]).returncode == 0, mend


def test_a_process_that_fails_says_why():
    assert machine_checks.run_python("print(1)") is None
    assert machine_checks.run_python("raise ValueError('broken part')") == "ValueError: broken part"
    assert machine_checks.run_python("import sys; sys.exit(3)") == "ended with code 3"
    slow = machine_checks.run_python("import time; time.sleep(9)", timeout_s=0.3)
    assert slow is not None and "no answer" in slow
