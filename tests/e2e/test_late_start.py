"""An agent that is started while clients of each kind are in full flow: every request that begins once it is ready has
exactly one right record, and nothing is told of another's socket.
"""

import collections
import json
import os
import subprocess
import time
import unittest

from harness.case import SOAK, EndToEndTest
from harness.clients import PYTHON, SOURCES
from harness.go import go_program
from harness.origin import Origin
from harness.processes import end, spawn

FLOWS = SOURCES / "late"
CLIENTS = 20
# Requests of each client that the origin answers meanwhile.
REQUESTS = 100 if SOAK else 3


class Flow:
    """Clients of one kind."""

    def __init__(self, name, command, server, library, version="1.1"):
        self.name, self.command, self.server, self.library, self.version = name, command, server, library, version

    def start(self, ports, ca):
        arguments = [CLIENTS, f"/{os.getpid()}-{self.name}", ports[self.server], ports["plain"], ca]
        self.process = spawn([*self.command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def wait_flowing(self):
        line = self.process.stdout.readline()
        if line != "flowing\n":
            raise AssertionError(f"{self.name} does not flow: {line!r}")

    def finish(self):
        with self.process.stdout:
            out = self.process.stdout.read()
        if self.process.wait(60) != 0:
            raise AssertionError(f"{self.name}: status {self.process.returncode}")
        return [json.loads(line) for line in out.splitlines()]


class LateStartTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        leaf = cls.authority.leaf("good")
        return {"good": leaf, "plain": None}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # A process of its own: HTTP/2 would wait behind all that HTTP/1 asks for.
        cls.h2_origin = Origin(cls.directory / "h2-origin", {"h2": cls.authority.leaf("h2")})
        cls.addClassCleanup(cls.h2_origin.stop)
        cls.ports = cls.origin.ports | cls.h2_origin.ports

    @classmethod
    def flows(cls):
        python = [PYTHON, "-B", FLOWS / "flow.py"]
        node = ["node", FLOWS / "flow.js"]
        go = [go_program(cls.directory, "1.23", FLOWS / "flow.go")]
        flows = [
            Flow("python-blocking", [*python, "blocking"], "good", "openssl"),
            Flow("python-mixed", [*python, "mixed"], "good", "openssl"),
            Flow("python-asyncio", [*python, "asyncio"], "good", "openssl"),
            Flow("node-h1", [*node, "h1"], "good", "openssl"),
            Flow("node-mixed", [*node, "mixed"], "good", "openssl"),
            Flow("node-h2", [*node, "h2"], "h2", "openssl", "2"),
            Flow("go-h1", [*go, "h1"], "good", "go"),
            Flow("go-h2", [*go, "h2"], "h2", "go", "2"),
        ]
        wanted = os.environ.get("WEIR_E2E_ROWS", "")
        return [flow for flow in flows if wanted in flow.name]

    def test_connections_older_than_the_agent(self):
        flows = self.flows()
        for flow in flows:
            flow.start(self.ports, self.ca)
            self.addCleanup(end, flow.process)
        for flow in flows:
            flow.wait_flowing()
        agent = self.start_agent()
        ready = time.time()
        before = self.answered()
        goal = {name: REQUESTS * CLIENTS * sum(flow.server == name for flow in flows) for name in ("good", "h2")}

        def enough():
            now = self.answered()
            return all(now[name] - before[name] >= count for name, count in goal.items())

        agent.wait_for(enough, f"{goal} requests", timeout=60)
        for flow in flows:
            flow.process.stdin.close()
        logs = {flow.name: flow.finish() for flow in flows}
        self.wait_for_records(agent, logs, ready)
        agent.stop()
        self.assert_no_mismatch(self.mismatches(agent, flows, logs, ready))

    def answered(self):
        requests = self.origin.requests() + self.h2_origin.requests()
        by_port = collections.Counter(request["port"] for request in requests)
        return {name: by_port[port] for name, port in self.ports.items()}

    def wait_for_records(self, agent, logs, ready):
        expected = {entry["path"] for log in logs.values() for entry in log if entry["began"] > ready}

        def all_there():
            return expected <= {path_of(record) for record in agent.exchanges()}

        try:
            agent.wait_for(all_there, "all records", timeout=15)
        except AssertionError as error:
            print(str(error)[:2000])

    def mismatches(self, agent, flows, logs, ready):
        wrong = []
        records = collections.defaultdict(list)
        for record in agent.exchanges():
            records[path_of(record)].append(record)
        for flow in flows:
            log = logs[flow.name]
            late = [entry for entry in log if entry["began"] > ready]
            ports = collections.Counter(entry["local_port"] for entry in late)
            if len(ports) < CLIENTS:
                wrong.append(f"{flow.name}: only {len(ports)} connections requested something: this proves little")
            seen = collections.Counter()
            for entry in log:
                found = records.pop(entry["path"], [])
                if entry["began"] > ready and len(found) != 1:
                    wrong.append(f"{entry['path']} on {entry['local_port']}: {len(found)} records")
                    seen["missing" if not found else "double"] += 1
                for record in found:
                    faults = self.faults(flow, entry, record, entry["began"] > ready)
                    wrong += [f"{entry['path']}: {fault}" for fault in faults]
                    seen["wrong" if faults else "joined" if "weir.incomplete" in record else "right"] += 1
            print(f"{flow.name}: {len(late)} requests after the start on {len(ports)} connections, {dict(seen)}")
        pids = {flow.process.pid for flow in flows}
        wrong += [f"{path}: {found[0]} was never requested" for path, found in records.items()
                  if found[0].get("process.pid") in pids]
        wrong += self.connection_mismatches(agent, flows, logs, ready)
        return wrong

    def server_of(self, flow, entry):
        return "plain" if "/cleartext/" in entry["path"] else flow.server

    def faults(self, flow, entry, record, whole):
        server = self.server_of(flow, entry)
        cleartext = server == "plain"
        scheme = "http" if cleartext else "https"
        expected = {
            "process.pid": flow.process.pid,
            "network.local.port": entry["local_port"],
            "network.peer.port": self.ports[server],
            "weir.tls.library": "none" if cleartext else flow.library,
            "network.protocol.version": flow.version,
        }
        incomplete = record.get("weir.incomplete")
        if whole or not incomplete:
            expected |= {
                "http.request.method": entry["method"],
                "http.response.status_code": entry["status"],
                "http.request.body.size": entry["sent"],
                "http.response.body.size": entry["size"],
            }
        if whole and incomplete not in ((None, "joined_midstream") if flow.version == "2" else (None,)):
            return [f"incomplete: {incomplete}"]
        if "url.full" in record:
            expected["url.full"] = f"{scheme}://localhost:{self.ports[server]}{entry['path']}"
        elif incomplete != "joined_midstream":
            return ["no url.full"]
        return [f"{key} is {record.get(key)!r}, not {value!r}" for key, value in expected.items()
                if record.get(key) != value]

    def connection_mismatches(self, agent, flows, logs, ready):
        """Each connection is told of once, as its process's, and that it was joined."""
        pids = {flow.process.pid: flow for flow in flows}
        wrong = []
        found = collections.Counter()
        for record in agent.feed.records():
            if record["weir.record"] == "connection" and record.get("process.pid") in pids:
                key = (record["process.pid"], record["network.local.port"], record["network.peer.port"])
                found[key] += 1
                if record.get("weir.incomplete") != "joined_midstream" or "weir.opaque.reason" in record:
                    wrong.append(f"connection {key}: {record}")
        for flow in flows:
            wanted = {
                (flow.process.pid, entry["local_port"], self.ports[self.server_of(flow, entry)])
                for entry in logs[flow.name] if entry["began"] > ready
            }
            wrong += [f"{flow.name} {key}: {found[key]} connection records" for key in wanted if found[key] != 1]
        return wrong


def path_of(record):
    """Of the URL, or what is known of it: an HTTP/2 client says the host's name in full only once in a while."""
    if "url.full" in record:
        return "/" + record["url.full"].partition("://")[2].partition("/")[2]
    return record.get("url.path", "?")


if __name__ == "__main__":
    unittest.main()
