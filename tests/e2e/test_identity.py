"""Identity under pressure: pids that come again, sockets that change hands, objects and descriptors that are used
again. What is recorded of each request is what the client noted of itself; nothing is missing and nothing extra."""

import json
import os
import random
import shutil
import time
import unittest

from harness import clients
from harness.case import SOAK, EndToEndTest
from harness.processes import check

# How many requests each scenario makes; the soak tier repeats them for its time.
COUNTS = {"short": 600, "fork": 60, "memory": 40, "pass": 60, "exec": 40, "threads": 160, "clear": 60, "reuse": 60}
SHORT_IN_SOAK = 10_000
SOAK_SECONDS = 600
PIDS = 8  # as identity_client has it


def free_pids():
    """The first of some pids in a row that nobody has."""
    while True:
        first = random.randrange(2_000, 30_000)
        if not any(os.path.exists(f"/proc/{first + i}") for i in range(PIDS)):
            return first


class IdentityTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.ca.chmod(0o644)
        cls.other = cls.directory / "other_program"
        shutil.copy(clients.BUILT / "identity_client", cls.other)

    def run_scenario(self, scenario, count):
        """Runs the client; gives what it noted, and checks the records against it."""
        log = self.directory / f"{scenario}-{time.monotonic_ns()}.log"
        log.touch()
        log.chmod(0o666)
        command = [clients.BUILT / "identity_client", scenario, str(count), str(self.origin.port), self.ca, log]
        variables = [f"OTHER_PROGRAM={self.other}", f"FIRST_PID={free_pids()}"]
        check(["/usr/bin/env", *variables, *command], timeout=600)
        notes = [json.loads(line) for line in log.read_text().splitlines()]
        requests = [note for note in notes if "path" in note]
        openers = {note["cookie"]: note["opener"] for note in notes if "opener" in note}
        self.assertEqual(len({note["path"] for note in requests}), count)
        self.assert_exchanges(scenario, requests)
        self.assert_connections(scenario, openers, requests)

    def exchanges_of(self, cookies):
        return [record for record in self.agent.exchanges(self.origin.port) if record["weir.socket.cookie"] in cookies]

    def assert_exchanges(self, scenario, requests):
        cookies = {note["cookie"] for note in requests}
        what = f"{len(requests)} exchanges of {scenario}"
        self.agent.wait_for(lambda: len(self.exchanges_of(cookies)) >= len(requests), what, 60)
        expected = sorted((n["path"], n["pid"], n["cookie"], n["executable"]) for n in requests)
        recorded = sorted(
            (
                self.origin.path_of(record["url.full"]),
                record["process.pid"],
                record["weir.socket.cookie"],
                record["process.executable.path"],
            )
            for record in self.exchanges_of(cookies)
        )
        self.assert_no_mismatch([f"noted {n}, recorded {r}" for n, r in zip(expected, recorded) if n != r])
        self.assertEqual(len(recorded), len(expected))
        if scenario == "short":
            owners = {self.origin.path_of(r["url.full"]): r["process.owner"] for r in self.exchanges_of(cookies)}
            self.assertEqual(owners, {note["path"]: str(note["uid"]) for note in requests})
        for record in self.exchanges_of(cookies):
            self.assertEqual(record["http.response.status_code"], 200)
            self.assertNotIn("weir.incomplete", record)

    def connections(self, cookies):
        return [
            record
            for record in self.agent.feed.records()
            if record["weir.record"] == "connection" and record["weir.final"] and record["weir.socket.cookie"] in cookies
        ]

    def assert_connections(self, scenario, openers, requests):
        """One record for each connection, of the process that opened it."""
        self.assertLessEqual({note["cookie"] for note in requests}, openers.keys())
        what = f"{len(openers)} connections of {scenario}"
        self.agent.wait_for(lambda: len(self.connections(openers)) >= len(openers), what, 60)
        records = self.connections(openers)
        self.assertEqual(len(records), len(openers), "a connection was recorded twice")
        self.assertEqual({r["weir.socket.cookie"]: r["process.pid"] for r in records}, openers)

    def test_pids_that_come_again(self):
        self.run_scenario("short", SHORT_IN_SOAK if SOAK else COUNTS["short"])

    def test_fork_after_connect(self):
        self.run_scenario("fork", COUNTS["fork"])

    def test_fork_of_an_object_with_its_bytes_in_memory(self):
        self.run_scenario("memory", COUNTS["memory"])

    def test_socket_passed_to_another_process(self):
        self.run_scenario("pass", COUNTS["pass"])

    def test_exec_in_mid_connection(self):
        self.run_scenario("exec", COUNTS["exec"])

    def test_threads(self):
        self.run_scenario("threads", COUNTS["threads"])

    def test_object_used_again(self):
        self.run_scenario("clear", COUNTS["clear"])

    def test_descriptor_used_again(self):
        self.run_scenario("reuse", COUNTS["reuse"])

    @unittest.skipUnless(SOAK, "takes ten minutes")
    def test_all_for_a_while(self):
        deadline = time.monotonic() + SOAK_SECONDS
        while time.monotonic() < deadline:
            for scenario, count in COUNTS.items():
                self.run_scenario(scenario, count)


if __name__ == "__main__":
    unittest.main()
