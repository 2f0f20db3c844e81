"""What an agent takes of its host: memory, CPU time, descriptors, BPF objects and the entries of its maps."""

import dataclasses
import json
import os
import time

from harness.agent import bpf_objects
from harness.processes import check, wait_until

_TICKS = os.sysconf("SC_CLK_TCK")
# Hash maps hold an entry for what is there now. The rest (arrays, rings) are as large as they were made.
_KINDS = ("hash", "lru_hash", "percpu_hash", "lru_percpu_hash")


@dataclasses.dataclass
class Process:
    private_kib: int  # private memory that is in use: neither files nor the ring
    descriptors: int


def private_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        fields = dict(line.split(":", 1) for line in rollup.read().splitlines()[1:])
    return int(fields["Anonymous"].split()[0])


def pids(agent):
    """By name, "broker" and "worker"."""
    return {"broker": agent.pid, "worker": agent.worker_pid()}


def processes(agent):
    return of_pids(pids(agent))


def of_pids(pids):
    """For who looks again and again: asking the agent who it is keeps it from being idle."""
    return {name: Process(private_kib(pid), len(os.listdir(f"/proc/{pid}/fd"))) for name, pid in pids.items()}


def settled(agent, seconds=25, timeout=180):
    """processes(), once they have taken no less memory for so long: the store lets its cache go after 20 s."""
    history = []
    known = pids(agent)

    def is_settled():
        now = of_pids(known)
        total = sum(process.private_kib for process in now.values())
        history.append((time.monotonic(), total))
        before = [kib for when, kib in history if when <= history[-1][0] - seconds]
        return bool(before) and total >= 0.99 * before[-1] and now

    return wait_until(is_settled, timeout, "the agent's memory goes on changing")


def cpu_seconds(pid):
    """User and system time of all threads, those that have ended included."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def held_objects(agent):
    """How many BPF programs and links broker and worker hold."""
    kinds = [kind for kind, _ in bpf_objects({agent.pid, agent.worker_pid()})]
    return {kind: kinds.count(kind) for kind in ("prog", "link")}


def stale_entries(agent):
    """Entries of the agent's maps that belong to a process or a connection that is gone, by the map's name."""
    ports = _open_ports()
    stale = {}
    for number in _map_ids({agent.pid, agent.worker_pid()}):
        info = json.loads(check(["bpftool", "--json", "map", "show", "id", number]).stdout)
        if info["type"] in _KINDS:
            dump = json.loads(check(["bpftool", "--json", "map", "dump", "id", number]).stdout)
            count = sum(_is_stale(entry["formatted"], ports) for entry in dump)
            if count:
                stale[info["name"]] = count
    return stale


def _is_stale(entry, ports):
    """By the tuple or the process that it names, wherever it does."""
    for part in (entry["key"], entry["value"]):
        if isinstance(part, dict):
            connection = part.get("tuple", part)
            if connection.get("local_port"):
                return connection["local_port"] not in ports
            if "tgid" in part:
                return not os.path.exists(f"/proc/{part['tgid']}")
    return False


def _open_ports():
    """Local ports of this network namespace's TCP sockets that have not ended."""
    listed = check(["ss", "--no-header", "--numeric", "--tcp", "state", "connected", "exclude", "time-wait"])
    return {int(line.split()[2].rpartition(":")[2]) for line in listed.stdout.splitlines()}


def _map_ids(pids):
    found = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fdinfo"):
            try:
                with open(f"/proc/{pid}/fdinfo/{name}") as info:
                    fields = dict(line.split(":", 1) for line in info.read().splitlines() if ":" in line)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "map_id" in fields:
                found.add(int(fields["map_id"]))
    return found
