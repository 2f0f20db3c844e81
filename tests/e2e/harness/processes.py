"""Starting, awaiting and ending processes.

Everything that is started here ends with the test, also when the test fails or dies; only processes that were
started here are ever signalled.
"""

import ctypes
import dataclasses
import os
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass
class Finished:
    """How a process ended; a negative status is the signal that killed it."""

    pid: int
    status: int
    stdout: str
    stderr: str


def clean_environment():
    """An environment in which nothing of the caller's (proxies, CA files, preloads) can change a result."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    sanitizers = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
    return {"PATH": path, "HOME": "/nonexistent", "LANG": "C.UTF-8", **sanitizers}


def spawn(arguments, **popen):
    """Starts a process that lives longer than the call, in a session of its own.

    To be called on the main thread: the kernel signals the child when the thread that forked it ends.
    """
    popen.setdefault("env", clean_environment())
    return subprocess.Popen(
        [str(argument) for argument in arguments],
        start_new_session=True,
        preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        **popen,
    )


def end(process, timeout=20):
    """Ends a spawned process and whatever is left of its group; returns its status."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    kill_group(process.pid)
    return process.wait()


def kill_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(arguments, timeout=60, typed=""):
    """Runs a process to its end; it finds `typed` on its standard input."""
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        env=clean_environment(),
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        stdout, stderr = process.communicate(typed, timeout)
    except BaseException:
        kill_group(process.pid)
        process.wait()
        raise
    return Finished(process.pid, process.returncode, stdout, stderr)


def check(arguments, **options):
    """Runs a process that must exit 0."""
    finished = run(arguments, **options)
    if finished.status != 0:
        command = " ".join(str(argument) for argument in arguments)
        raise AssertionError(f"{command}: status {finished.status}\n{finished.stdout}{finished.stderr}")
    return finished


def alive(pid):
    """True while the process runs; a zombie doesn't."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return set(map(int, children.read().split()))


def wait_until(condition, timeout, what):
    """Polls until the condition's value is true, and returns it. `what` is a text or makes one."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(0.02)
