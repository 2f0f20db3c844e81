"""What happens when a part of weir dies, hangs or must not start. The watched processes must never notice."""

import os
import signal
import socket
import sqlite3
import time
import unittest

from harness import clients
from harness.agent import WEIR, bpf_objects, loaded_bpf_objects
from harness.case import EndToEndTest
from harness.load import Load
from harness.processes import alive, check, children_of, run, wait_until

BPF_GONE_WITHIN = 2
WORKER_STOPPED_FOR = 10
SLOWEST_MS = 1500  # a machine with two cores, busy with all the rest of the test


class FaultTest(EndToEndTest):
    """Each test has an agent of its own, for it does not survive."""

    def request(self, path):
        check(clients.curl_command(self.url(path, "127.0.0.1"), ca=self.ca), timeout=35)

    def assert_watching(self, agent, path):
        """A request made now gets its one record."""
        self.request(path)
        agent.wait_for(lambda: self.recorded(agent, path), f"{path} is not recorded")
        self.assertEqual(self.recorded(agent, path), 1)

    def recorded(self, agent, path):
        urls = [record["url.full"] for record in agent.exchanges(self.origin.port)]
        return urls.count(self.url(path, "127.0.0.1"))

    def wait_for_load(self, load, more):
        target = load.answered() + more
        wait_until(lambda: load.answered() >= target, 60, "the load stands still")

    def wait_until_watched(self, agent, load):
        self.wait_for_load(load, 100)
        agent.wait_for_exchanges(self.origin.port, 50)

    def assert_database_opens(self, agent):
        with sqlite3.connect(f"file:{agent.state_dir}/weir.db?mode=ro", uri=True) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])


class KillTest(FaultTest):
    def test_broker_killed_under_load(self):
        agent = self.start_agent()
        pids = agent.own_pids()
        with Load(self.origin, self.ca) as load:
            self.wait_until_watched(agent, load)
            ours = bpf_objects(pids)
            self.assertEqual({kind for kind, _ in ours}, {"prog", "link"})
            os.kill(agent.pid, signal.SIGKILL)
            wait_until(lambda: not ours & loaded_bpf_objects(), BPF_GONE_WITHIN, "BPF objects stay")
            wait_until(lambda: not any(map(alive, pids)), 5, "a process of the agent stays")
            self.wait_for_load(load, 100)
            load.finish()
        self.assert_database_opens(agent)
        agent.process.wait()
        again = self.start_agent(name="again", state_dir=agent.state_dir)
        self.assert_watching(again, "/after-broker")
        again.stop()
        self.assert_database_opens(agent)

    def test_worker_killed_under_load(self):
        agent = self.start_agent()
        first = agent.worker_pid()
        with Load(self.origin, self.ca) as load:
            self.wait_until_watched(agent, load)
            ours = bpf_objects(agent.own_pids())
            self.assertEqual({kind for kind, _ in ours}, {"prog", "link"})
            os.kill(first, signal.SIGKILL)
            wait_until(
                lambda: (ours & loaded_bpf_objects()) <= self.held_now(agent),
                BPF_GONE_WITHIN,
                "BPF objects stay that nobody holds",
            )
            wait_until(lambda: agent.worker_pid() not in (None, first), 30, "no new worker")
            agent.wait_ready()
            self.wait_for_load(load, 100)
            load.finish()
        self.assertTrue(alive(agent.pid))
        self.assert_watching(agent, "/after-worker")
        agent.stop()
        self.assert_database_opens(agent)

    def held_now(self, agent):
        """BPF objects of the broker and of whatever it has started in the dead worker's place."""
        return bpf_objects({agent.pid} | children_of(agent.pid))

    def wait_until_caught_up(self, agent):
        """Until the ring that filled while the worker stood has room again: a request made now is recorded."""
        paths = []

        def one_is_recorded():
            paths.append(f"/catching-up/{len(paths)}")
            self.request(paths[-1])
            return any(self.recorded(agent, path) for path in paths)

        agent.wait_for(one_is_recorded, "nothing is recorded since the worker was stopped")

    def test_worker_stopped(self):
        agent = self.start_agent()
        worker = agent.worker_pid()
        with Load(self.origin, self.ca) as load:
            self.wait_until_watched(agent, load)
            os.kill(worker, signal.SIGSTOP)
            try:
                deadline = time.monotonic() + WORKER_STOPPED_FOR
                while time.monotonic() < deadline:
                    began = time.monotonic()
                    self.request("/while-stopped")
                    self.assertLess((time.monotonic() - began) * 1000, SLOWEST_MS)
                self.wait_for_load(load, 100)
            finally:
                if alive(worker):
                    os.kill(worker, signal.SIGCONT)
            for name, summary in load.finish().items():
                self.assertLess(summary["slowest_ms"], SLOWEST_MS, name)
        self.wait_until_caught_up(agent)
        self.assert_watching(agent, "/after-stop")
        agent.stop()

    def test_sigterm_loses_nothing(self):
        agent = self.start_agent()
        paths = [f"/drained/{i}" for i in range(50)]
        command = clients.tls_client_command(self.origin.port, *[f"GET:{path}" for path in paths], ca=self.ca)
        check(command)
        agent.stop()
        self.assertEqual({path: self.recorded(agent, path) for path in paths}, dict.fromkeys(paths, 1))
        stored = clients.json_lines(check([WEIR, "ls", "--json", "--state-dir", agent.state_dir]).stdout)
        urls = [record.get("url.full") for record in stored if record["weir.record"] == "exchange"]
        for path in paths:
            self.assertEqual(urls.count(self.url(path, "127.0.0.1")), 1, path)


class RefusalTest(FaultTest):
    """A start that can't be: status 1 and one line that says what and what to do."""

    def command(self, state_dir, proxy="127.0.0.1:0", api="127.0.0.1:0", user=()):
        return [*user, WEIR, "agent", "--state-dir", state_dir, "--proxy-listen", proxy, "--api-listen", api]

    def assert_refused(self, command, *words):
        ended = run(command, timeout=30)
        self.assertEqual(ended.status, 1, ended.stderr)
        self.assertEqual(ended.stdout, "")
        lines = ended.stderr.splitlines()
        self.assertEqual(len(lines), 1, ended.stderr)
        for word in words:
            self.assertIn(word, lines[0])

    def test_second_agent_on_the_state_directory(self):
        agent = self.start_agent()
        self.assert_refused(self.command(agent.state_dir), str(agent.state_dir))
        self.assert_watching(agent, "/still-there")
        agent.stop()

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            state_dir = self.directory / "port-state"
            self.assert_refused(self.command(state_dir, proxy=address), address, "--proxy-listen")
            self.assert_refused(self.command(state_dir, api=address), address, "--api-listen")

    def test_state_directory_that_cannot_be_made(self):
        file = self.directory / "a-file"
        file.touch()
        self.assert_refused(self.command(file / "state"), str(file / "state"))

    def test_state_directory_that_holds_something_else(self):
        directory = self.directory / "others"
        directory.mkdir(mode=0o751)
        (directory / "a-file").touch()
        self.assert_refused(self.command(directory), str(directory), "--state-dir")
        self.assertEqual(directory.stat().st_mode & 0o7777, 0o751)
        self.assertEqual([path.name for path in directory.iterdir()], ["a-file"])

    def test_key_with_loose_permissions(self):
        agent = self.start_agent()
        agent.stop()
        key = agent.state_dir / "ca" / "ca.key"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        key.chmod(0o644)
        self.assert_refused(self.command(agent.state_dir), str(key), "chmod 600")
        key.chmod(0o600)
        again = self.start_agent(name="tightened", state_dir=agent.state_dir)
        again.stop()


# What is larger is the address sanitizer's own book-keeping; it holds no data.
LARGEST_MAPPING = 1 << 32


def find_in_memory(pid, needles):
    """Which of the byte strings the process has in memory that it can read."""
    found = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            addresses, access = line.split()[:2]
            start, end = (int(address, 16) for address in addresses.split("-"))
            if access.startswith("r") and end - start <= LARGEST_MAPPING:
                content = _read_mapping(memory, start, end)
                found |= {name for name, needle in needles.items() if needle in content}
    return found


def _read_mapping(memory, start, end):
    try:
        memory.seek(start)
        return memory.read(end - start)
    except (OSError, ValueError, OverflowError):
        return b""  # [vvar] and [vsyscall] can't be read


class WorkerTest(FaultTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.worker = cls.agent.worker_pid()

    def key_material(self):
        """The private number, big-endian as in files and little-endian as in OpenSSL, and the file's text."""
        key = self.agent.state_dir / "ca" / "ca.key"
        text = check(["openssl", "pkey", "-in", key, "-noout", "-text"]).stdout
        digits = text.partition("priv:")[2].partition("pub:")[0]
        number = bytes.fromhex("".join(digits.replace(":", "").split()))[-32:]
        return {
            "number": number,
            "reversed number": number[::-1],
            "file": key.read_text().splitlines()[1].encode(),
        }

    def test_ordinary_user_without_capabilities(self):
        with open(f"/proc/{self.worker}/status") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status)
        self.assertNotIn("0", fields["Uid"].split())
        self.assertNotIn("0", fields["Gid"].split())
        self.assertNotIn("0", fields["Groups"].split())
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertEqual(int(fields[kind], 16), 0, kind)
        self.assertEqual(fields["NoNewPrivs"], "1")

    def test_the_key_is_not_in_the_worker(self):
        # A leaf is signed first: that is when the key is at work.
        check(self.agent.exec_command(*clients.curl_command(self.url("/leaf"))))
        needles = self.key_material()
        self.assertNotEqual(find_in_memory(self.agent.pid, needles), set(), "not even the broker has the key")
        self.assertEqual(find_in_memory(self.worker, needles), set())

    def test_the_key_is_not_among_the_workers_files(self):
        names = [os.readlink(f"/proc/{self.worker}/fd/{fd}") for fd in os.listdir(f"/proc/{self.worker}/fd")]
        with open(f"/proc/{self.worker}/maps") as maps:
            names += [line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6]
        self.assertEqual([name for name in names if "ca.key" in name], [])

    def test_the_key_is_closed_to_the_workers_user(self):
        uid = os.stat(f"/proc/{self.worker}").st_uid
        key = self.agent.state_dir / "ca" / "ca.key"
        read = run(["setpriv", f"--reuid={uid}", "--clear-groups", "cat", key])
        self.assertNotEqual(read.status, 0)
        self.assertEqual(read.stdout, "")


if __name__ == "__main__":
    unittest.main()
