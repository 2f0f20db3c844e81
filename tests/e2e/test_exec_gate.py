"""Programs are held at their first start until their probes stand, and nobody else's trouble holds them longer: with the
agent's processes stopped or killed, each program of the host still starts.
"""

import itertools
import os
import shutil
import signal
import time
import unittest

from harness.case import EndToEndTest
from harness.clients import BUILT
from harness.processes import alive, check, wait_until
from harness.agent import WEIR

# A hold, the kernel's patience with the process that answers, and as much again for a busy machine.
LONGEST_START = 2.0
PROGRAMS = 8


class ExecGateTest(EndToEndTest):
    numbers = itertools.count()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.class_agent = cls.start_class_agent()

    def setUp(self):
        self.agent = self.class_agent
        self.gate = self.gate_now()
        self.restarts = self.counters()["exec_gate_restarts"]

    def gate_now(self):
        """The process that answers the kernel, or that is to be replaced: then the next."""
        return wait_until(lambda: self.agent.status()["native"].get("exec_gate_pid"), 10, "no gate")

    def new_program(self, source="/usr/bin/true"):
        return shutil.copy(source, self.directory / f"program-{next(self.numbers)}")

    def start_of(self, program):
        """How long a program took from fork to exit. Python's own ways to start one would wait with it."""
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                os.execv(program, [program])
            finally:
                os._exit(126)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > began + 2 * LONGEST_START:
                self.signal(signal.SIGCONT, self.agent.pid)
                self.agent.process.kill()
                os.waitpid(child, 0)
                self.fail(f"{program} does not start")
            time.sleep(0.001)
        return time.monotonic() - began

    def starts(self, count=PROGRAMS):
        slowest = max(self.start_of(self.new_program()) for _ in range(count))
        self.assertLess(slowest, LONGEST_START)

    @staticmethod
    def signal(number, pid):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def stop(self, *pids):
        for pid in pids:
            self.addCleanup(self.signal, signal.SIGCONT, pid)
            self.signal(signal.SIGSTOP, pid)

    @staticmethod
    def is_running_python(pid):
        """A forked child before its exec, or while that waits, or after it."""
        with open(f"/proc/{pid}/wchan") as channel, open(f"/proc/{pid}/comm") as name:
            return "python" in name.read() and "fanotify" not in channel.read()

    def counters(self):
        return self.agent.counters()["native"]

    def holds_again(self):
        """New programs wait for their probes (a stopped one's successor, too), and are answered."""
        def held_one():
            before = self.counters()
            self.start_of(self.new_program())
            after = self.counters()
            return after["execs_held"] > before["execs_held"] and after["execs_let_go_late"] == before["execs_let_go_late"]

        wait_until(held_one, 10, lambda: f"programs are not held: {self.agent.counters()} {self.agent.log_tail()}")

    def test_each_program_once(self):
        before = self.counters()["execs_held"]
        program = self.new_program()
        self.start_of(program)
        wait_until(lambda: self.counters()["execs_held"] > before, 5, "it was not held")
        # What has run starts without asking, whoever is stopped.
        self.stop(self.agent.pid, self.gate)
        self.assertLess(self.start_of(program), 0.4)

    def test_what_is_no_program_keeps_none_from_being_looked_at(self):
        worker = self.agent.worker_pid()
        for _ in range(5):
            script = self.directory / f"script-{next(self.numbers)}"
            script.write_text("#!/usr/bin/true\n")
            script.chmod(0o755)
            # All wait, in this order, when the worker looks.
            files = [script, self.new_program(), self.new_program()]
            self.stop(worker)
            children = []
            for file in files:
                children.append(os.fork())
                if children[-1] == 0:
                    try:
                        os.execv(file, [file])
                    finally:
                        os._exit(126)
                wait_until(lambda: not self.is_running_python(children[-1]), 5, "it doesn't wait")
            self.signal(signal.SIGCONT, worker)
            for child in children:
                self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.holds_again()

    def test_with_the_broker_stopped(self):
        self.stop(self.agent.pid)
        self.starts()
        self.assertTrue(alive(self.gate))
        self.signal(signal.SIGCONT, self.agent.pid)
        self.holds_again()
        self.assertGreater(self.counters()["execs_let_go_late"], 0)
        self.assertEqual(self.counters()["exec_gate_restarts"], self.restarts)

    def test_with_the_worker_stopped(self):
        worker = self.agent.worker_pid()
        self.stop(worker)
        self.starts()
        self.signal(signal.SIGCONT, worker)
        self.holds_again()
        shown = check([WEIR, "status", "--state-dir", self.agent.state_dir]).stdout
        late = self.counters()["execs_let_go_late"]
        self.assertRegex(shown, rf"(?m)^starts +\d+ held until probed, {late} let go late\b")
        self.assertGreater(late, 0)

    def test_with_the_gate_stopped(self):
        self.stop(self.gate)
        self.starts()
        wait_until(lambda: not alive(self.gate), 5, "the stopped gate stays")
        self.holds_again()
        self.assertEqual(self.counters()["exec_gate_restarts"], self.restarts + 1)

    def test_with_all_stopped(self):
        worker = self.agent.worker_pid()
        self.stop(self.agent.pid, worker, self.gate)
        self.starts()
        # What ends lets the programs start first, and is gone when the kernel has put all of its marks away.
        wait_until(lambda: not alive(self.gate), 5, "the stopped gate stays")
        self.signal(signal.SIGCONT, self.agent.pid)
        self.signal(signal.SIGCONT, worker)
        self.holds_again()

    def test_with_the_gate_killed(self):
        for _ in range(3):
            self.signal(signal.SIGKILL, self.gate_now())
            self.starts(1)
        self.holds_again()

    def test_with_the_agent_killed(self):
        self.agent = self.start_agent()
        self.gate = self.gate_now()
        self.starts(1)
        self.agent.process.kill()
        self.starts()
        wait_until(lambda: not alive(self.gate), 5, "the gate outlives the broker")

    def test_what_was_late_is_said_to_be(self):
        worker = self.agent.worker_pid()
        self.stop(worker)
        program = self.new_program(BUILT / "tls_client_static")
        client = check([program, "--ca", self.ca, "localhost", str(self.origin.port), "GET:/late"])
        self.signal(signal.SIGCONT, worker)

        def record():
            return [record for record in self.agent.feed.records() if record.get("process.pid") == client.pid]

        self.agent.wait_for(record, "a record")
        self.assertEqual([record.get("weir.opaque.reason") for record in record()], ["opened before attach"])


if __name__ == "__main__":
    unittest.main()
