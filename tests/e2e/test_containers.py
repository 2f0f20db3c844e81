"""Programs in containers, with a root file system and a TLS library of their own: read as those of the host are, without a
restart, once, and with their container's id. And libraries that are replaced on disk while a process runs the old one.
"""

import os
import pathlib
import shutil
import subprocess
import unittest

from harness.case import EndToEndTest
from harness.clients import BUILT, CURL, TLS_CLIENT
from harness.containers import Podman
from harness.processes import check, clean_environment, end, spawn, wait_until

LIBRARIES = ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"]


class ContainersTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.podman = Podman(cls.directory / "podman", [CURL, "/bin/sh", "/usr/bin/tail", str(TLS_CLIENT)],
                            {"/ca.crt": cls.ca})
        cls.addClassCleanup(cls.podman.clean_up)

    def curl(self, container, path):
        container.shell(f"{CURL} -q -sS --fail -o /dev/null --cacert /ca.crt {self.url(path)}")

    def assert_read_once(self, agent, container, *paths):
        wanted = {self.url(path) for path in paths}

        def records():
            return [record for record in agent.exchanges() if record.get("url.full") in wanted]

        agent.wait_for(lambda: len(records()) >= len(wanted), f"{len(wanted)} exchanges", timeout=15)
        told = [(record["url.full"], record["http.response.status_code"], record.get("container.id"),
                 record.get("container.name"), record.get("container.image.name"),
                 record["process.executable.name"]) for record in records()]
        name = container.name()
        self.assertCountEqual(told, [(url, 200, container.id, name, "localhost/weir-test", "curl") for url in wanted])
        for record in records():
            # Its pid namespace is the container's, where the shell is the first.
            self.assertNotEqual(record["process.pid"], record["weir.process.inner_pid"])

    def assert_client_read(self, agent, container):
        """The process that was there before the agent, from the first connection after its start on."""
        def records():
            return [record for record in agent.exchanges() if "/kept/" in record.get("url.full", "")]

        agent.wait_for(lambda: len(records()) >= 5, "5 exchanges", timeout=15)
        told = records()
        self.assertEqual({record.get("container.id") for record in told}, {container.id})
        numbers = [int(record["url.full"].rpartition("/")[2]) for record in told]
        self.assertEqual(sorted(numbers), list(range(min(numbers), min(numbers) + len(numbers))))

    def test_containers(self):
        older = self.podman.start()
        # A process that stays: each request over a connection of its own.
        older.shell(f"{{ tail -f /dev/null | {TLS_CLIENT} --ca /ca.crt --reconnect --pause-us 20000 --loop /kept localhost "
                    f"{self.origin.port} >/dev/null & }}")
        wait_until(lambda: any(request["path"].startswith("/kept/") for request in self.origin.requests()), 10, "no client")
        configuration = self.directory / "containers.yaml"
        configuration.write_text(f"container_state: [{self.podman.directory / 'storage'}, {self.podman.directory / 'run'}]\n")
        agent = self.start_agent("--config", configuration)
        self.assert_client_read(agent, older)
        self.curl(older, "/first")  # nobody has seen this curl before: a race
        self.curl(older, "/older/0")
        self.curl(older, "/older/1")
        self.assert_read_once(agent, older, "/older/0", "/older/1")
        # Two that share the image's files: probes that stood there for each container would tell all twice.
        newer, third = self.podman.start(), self.podman.start()
        for i in range(2):
            self.curl(newer, f"/newer/{i}")
            self.curl(third, f"/third/{i}")
        self.curl(older, "/older/2")
        self.assert_read_once(agent, newer, "/newer/0", "/newer/1")
        self.assert_read_once(agent, third, "/third/0", "/third/1")
        self.assert_read_once(agent, older, "/older/2")


class ReplacedFilesTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.known = pathlib.Path("/usr/local/ssl/lib64")  # agent/known_libraries.cc
        made = [directory for directory in (cls.known.parent, cls.known) if not directory.exists()]
        cls.known.mkdir(parents=True, exist_ok=True)
        for directory in made:
            cls.addClassCleanup(directory.rmdir)
        cls.agent = cls.start_class_agent()

    def place(self):
        place = self.directory / self.id().rpartition(".")[2]
        place.mkdir()
        return place

    def loop(self, prefix, libraries):
        """Asks for PREFIX/0, /1... over one connection until it is ended."""
        process = spawn(
            [TLS_CLIENT, "--ca", self.ca, "--pause", "20000", "--loop", prefix, "localhost", str(self.origin.port)],
            env=clean_environment() | {"LD_LIBRARY_PATH": str(libraries)},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )
        self.addCleanup(end, process)
        self.addCleanup(process.stdin.close)
        return process

    def told(self, prefix):
        return [record for record in self.agent.exchanges() if f"{prefix}/" in record.get("url.full", "")]

    def assert_told(self, process, prefix, more):
        """That many more exchanges of the process's, each once."""
        count = len(self.told(prefix)) + more
        self.agent.wait_for(lambda: len(self.told(prefix)) >= count, f"{count} exchanges {prefix}", timeout=15)
        records = self.told(prefix)
        self.assertEqual(len({record["url.full"] for record in records}), len(records))
        self.assertEqual({record["process.pid"] for record in records}, {process.pid})

    def test_a_library_that_is_replaced_while_a_process_runs_the_old_one(self):
        place = self.place()
        for library in LIBRARIES:
            shutil.copy(library, place)
        old = self.loop("/old", place)
        self.assert_told(old, "/old", 3)
        # As package managers do it.
        shutil.copy(LIBRARIES[0], place / "libssl.so.3.new")
        os.rename(place / "libssl.so.3.new", place / "libssl.so.3")
        new = self.loop("/new", place)
        self.assert_told(new, "/new", 3)
        self.assert_told(old, "/old", 3)

    def run_once(self, program, path):
        return check([program, "--ca", self.ca, "localhost", str(self.origin.port), f"GET:{path}"])

    def overwrite(self, program, source):
        inode = os.stat(program).st_ino
        shutil.copyfile(source, program)
        self.assertEqual(os.stat(program).st_ino, inode)

    def test_a_program_that_is_overwritten_where_it_lies(self):
        program = shutil.copy("/usr/bin/true", self.place() / "program")
        check([program])
        self.overwrite(program, BUILT / "tls_client_static")
        self.run_once(program, "/overwritten/0")
        self.agent.wait_for(lambda: len(self.told("/overwritten")) == 1, "the exchange", timeout=10)
        # Where probes stood is other code now. The kernel takes its time with those before others may stand there.
        clients = []
        for i in range(1, 4):
            self.overwrite(program, TLS_CLIENT if i % 2 else BUILT / "tls_client_static")
            clients.append(self.run_once(program, f"/overwritten/{i}").pid)

        def unaccounted():
            read = {record["process.pid"] for record in self.told("/overwritten")}
            late = {record.get("process.pid") for record in self.agent.feed.records()
                    if record.get("weir.opaque.reason") in ("opened before attach", "its file was being written")}
            return set(clients) - read - late

        self.agent.wait_for(lambda: not unaccounted(), "what each said", timeout=10)
        self.assertEqual(len({record["url.full"] for record in self.told("/overwritten")}), len(self.told("/overwritten")))

    def test_an_upgraded_library_is_probed_before_anybody_maps_it(self):
        probed = self.agent.status()["native"]["targets"]
        library = self.known / "libssl.so.3"
        shutil.copy(LIBRARIES[0], self.known / "libssl.so.3.new")
        self.addCleanup(library.unlink)
        os.rename(self.known / "libssl.so.3.new", library)
        # Well before the next scan of all.
        wait_until(lambda: self.agent.status()["native"]["targets"] > probed, 1.5, "it is not probed")


if __name__ == "__main__":
    unittest.main()
