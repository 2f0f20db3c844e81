"""`weir agent` with a state directory and a feed of its own."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess

from harness.processes import alive, check, end, kill_group, run, spawn, wait_until

WEIR = os.environ.get("WEIR_BIN", "")
# A line of the configuration's section `native`: the same tests with an older kernel's way forced.
FORCED = os.environ.get("WEIR_E2E_NATIVE", "")
_BODIES = ("weir.request.body", "weir.response.body")


def _condense(record):
    """Puts (size, SHA-256) in each body's place, so that hundreds of megabytes of feed fit into memory."""
    for key in _BODIES:
        if key in record:
            encoding = record[key + ".encoding"]
            decode = {"utf8": str.encode, "base64": base64.b64decode}[encoding]
            content = decode(record[key])
            record[key] = (len(content), hashlib.sha256(content).hexdigest())
    return record


class Feed:
    """Reads a JSONL file as it grows. A line that isn't complete yet is left for the next time, and so is what comes
    meanwhile: under load it may come faster than it is read."""

    def __init__(self, path):
        self.path = path
        self._offset = 0
        self._records = []

    def records(self):
        if not self.path.exists():
            return self._records
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._offset)
            while self._offset < size and (line := file.readline()).endswith(b"\n"):
                self._offset += len(line)
                self._records.append(_condense(json.loads(line)))
        return self._records


NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]


def readable_copy(directory):
    """weir where any user may run it: the build directory may be closed to others."""
    copy = directory / "weir"
    shutil.copyfile(WEIR, copy)
    copy.chmod(0o755)
    return copy


class Agent:
    """`start` is the command up to `agent`: other than weir itself when another user is to run it."""

    def __init__(self, directory, upstream_ca, name="agent", options=(), state_dir=None, start=(WEIR,)):
        self.state_dir = state_dir or directory / f"{name}-state"
        self.log = directory / f"{name}.log"
        self.feed = Feed(directory / f"{name}.jsonl")
        self.command = [*start, "agent", "--state-dir", self.state_dir, "--jsonl", self.feed.path]
        self.command += ["--proxy-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]
        self.command += ["--upstream-ca", upstream_ca, *options]
        if FORCED and "--config" not in self.command:
            configuration = directory / f"{name}.yaml"
            configuration.write_text(f"native:\n  {FORCED}\n")
            self.command += ["--config", configuration]
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = spawn(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_ready()
        self.pid = self.status()["pid"]
        return self

    def wait_ready(self):
        ready = run([WEIR, "status", "--state-dir", self.state_dir, "--wait", "30"])
        if ready.status != 0:
            raise AssertionError(f"the agent is not ready: {ready.stderr}\n{self.log_tail()}")

    def status(self):
        return json.loads(check([WEIR, "status", "--state-dir", self.state_dir, "--json"]).stdout)

    def worker_pid(self):
        """The worker's pid, or None while nobody answers."""
        answer = run([WEIR, "status", "--state-dir", self.state_dir, "--json"])
        return json.loads(answer.stdout).get("worker_pid") if answer.status == 0 else None

    def own_pids(self):
        status = self.status()
        return {self.process.pid, status["pid"], status["worker_pid"]}

    def proxy_address(self):
        return self.status()["proxy"]["address"]

    def exec_command(self, *command):
        return [WEIR, "exec", "--state-dir", self.state_dir, "--", *command]

    def log_tail(self):
        return "the agent's log ends with:\n" + "\n".join(self.log.read_text().splitlines()[-30:])

    def exchanges(self, port=None):
        """The feed's exchange records; with a port, those whose URL has it."""
        found = [record for record in self.feed.records() if record["weir.record"] == "exchange"]
        if port is None:
            return found
        return [record for record in found if f":{port}/" in record.get("url.full", "")]

    def wait_for(self, condition, what, timeout=30):
        """As wait_until(), with the agent's counters and log when it takes too long."""
        return wait_until(condition, timeout, lambda: f"{what}. {self.counters()} {self.log_tail()}")

    def counters(self):
        answer = run([WEIR, "status", "--state-dir", self.state_dir, "--json"])
        return json.loads(answer.stdout)["counters"] if answer.status == 0 else answer.stderr

    def wait_for_exchanges(self, port, count):
        """Waits until the feed has that many exchanges with the port; there may be more."""
        self.wait_for(lambda: len(self.exchanges(port)) >= count, f"{count} exchanges with port {port}")
        return self.exchanges(port)

    def stop(self):
        """As a service manager does it: SIGTERM, then status 0 and nothing left."""
        worker = self.worker_pid()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there 60 s after SIGTERM. {self.log_tail()}") from None
        if status != 0:
            raise AssertionError(f"status {status} after SIGTERM. {self.log_tail()}")
        if worker:
            wait_until(lambda: not alive(worker), 5, "the worker outlives the broker")

    def clean_up(self):
        if self.process is not None:
            end(self.process)
            kill_group(self.process.pid)


def bpf_objects(pids):
    """The ("prog", id) and ("link", id) that these processes hold descriptors of."""
    kinds = {"prog_id:": "prog", "link_id:": "link"}
    found = set()
    for pid in pids:
        for info in _descriptor_infos(pid):
            fields = [line.split() for line in info.splitlines()]
            found |= {(kinds[field[0]], int(field[1])) for field in fields if field and field[0] in kinds}
    return found


def _descriptor_infos(pid):
    directory = f"/proc/{pid}/fdinfo"
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        try:
            with open(f"{directory}/{name}") as info:
                yield info.read()
        except (FileNotFoundError, ProcessLookupError):
            continue


def loaded_bpf_objects():
    """What `bpftool prog` and `bpftool link` show, of whomever."""
    return {
        (kind, item["id"])
        for kind in ("prog", "link")
        for item in json.loads(check(["bpftool", "--json", kind, "show"]).stdout)
    }
