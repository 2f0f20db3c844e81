"""Clients that make request after request until they are told to stop, and say whether one of them failed."""

import json
import subprocess

from harness import clients
from harness.processes import end, spawn

# Each loop's options: kept connections, fresh ones, and kept ones that never block.
LOOPS = {"kept": ["--touched"], "fresh": ["--reconnect"], "nonblocking": ["--nonblocking", "--ex"]}


class Load:
    """Started on entry; ends with the block, however that ends. Each loop pauses between its requests."""

    def __init__(self, origin, ca, pause_us=0):
        self._origin = origin
        self._ca = ca
        self._pause = ["--pause-us", str(pause_us)] if pause_us else []
        self._processes = {}
        self._seen_before = 0

    def __enter__(self):
        self._seen_before = len(self._origin.requests())
        for name, options in LOOPS.items():
            command = clients.tls_client_command(
                self._origin.port, *options, *self._pause, "--loop", f"/load/{name}", ca=self._ca
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

    def answered(self):
        """How many requests the origin has answered since the load began."""
        return len(self._origin.requests()) - self._seen_before

    def finish(self):
        """Ends the loops; gives each one's summary. A request that failed fails the test."""
        summaries = {}
        for name, process in self._processes.items():
            stdout, stderr = process.communicate(timeout=60)
            if process.returncode != 0:
                raise AssertionError(f"a request of {name} failed (status {process.returncode}): {stderr}")
            summaries[name] = json.loads(stdout)
        return summaries
