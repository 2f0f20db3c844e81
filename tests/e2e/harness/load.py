"""Load: clients in loops, connections that are held open, processes that come and go. Each says whether a request
of its own failed, and a failed request fails the test."""

import json
import subprocess
import time

from harness import clients
from harness.processes import end, spawn

# Each loop's options: kept connections, fresh ones, and kept ones that never block.
LOOPS = {"kept": ["--touched"], "fresh": ["--reconnect"], "nonblocking": ["--nonblocking", "--ex"]}


class Load:
    """Started on entry; ends with the block, however that ends. Each loop pauses between its requests."""

    def __init__(self, origin, ca, pause_us=0, options=()):
        self._origin = origin
        self._ca = ca
        self._options = [*options, *(["--pause-us", str(pause_us)] if pause_us else [])]
        self._processes = {}
        self._seen_before = 0

    def __enter__(self):
        self._seen_before = self._origin.answered()
        for name, options in LOOPS.items():
            command = clients.tls_client_command(
                self._origin.port, *options, *self._options, "--loop", f"/load/{name}", ca=self._ca
            )
            self._processes[name] = spawn(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            end(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()

    def pids(self):
        return [process.pid for process in self._processes.values()]

    def answered(self):
        """How many requests the origin has answered since the load began."""
        return self._origin.answered() - self._seen_before

    def finish(self):
        """Ends the loops; gives each one's summary. A request that failed fails the test."""
        summaries = {}
        for name, process in self._processes.items():
            stdout, stderr = process.communicate(timeout=60)
            if process.returncode != 0:
                raise AssertionError(f"a request of {name} failed (status {process.returncode}): {stderr}")
            summaries[name] = json.loads(stdout)
        return summaries


class HeldConnections:
    """Connections with one exchange each, open from entry to the end of the block."""

    def __init__(self, origin, ca, count, prefix, *options):
        self._command = ["prlimit", f"--nofile={count + 100}"] + clients.tls_client_command(
            origin.port, *options, "--loop", prefix, "--hold", str(count), ca=ca
        )

    def __enter__(self):
        self._process = spawn(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not self._process.stdout.readline():
            stderr = self._process.communicate()[1]
            raise AssertionError(f"the connections can't be held: {stderr}")
        return self

    def __exit__(self, *_):
        try:
            stderr = self._process.communicate(timeout=60)[1]
        finally:
            end(self._process)
        if self._process.returncode != 0:
            raise AssertionError(f"the connections were not closed well: {stderr}")


def come_and_go(command_of, count, seconds):
    """Runs `count` processes, spread evenly over so many seconds or as fast as the machine can. `command_of` gives
    each number's command. Returns how long it took."""
    began = time.monotonic()
    running = []
    for number in range(count):
        delay = began + number * seconds / count - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        running.append(spawn(command_of(number), stdout=subprocess.DEVNULL))
        running = [process for process in running if not _has_ended(process)]
    for process in running:
        process.wait(60)
        _has_ended(process)
    return time.monotonic() - began


def _has_ended(process):
    status = process.poll()
    if status:
        raise AssertionError(f"{process.args}: status {status}")
    return status == 0
