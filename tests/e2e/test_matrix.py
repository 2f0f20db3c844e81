"""Real clients of every library that weir reads, and of those that it can't: one right record for each request, or
for what is opaque, one connection record with the right reason. Prints the table of docs/clients.md.
"""

import collections
import os
import subprocess
import unittest

from harness.case import EndToEndTest
from harness.go import go_program
from harness.matrix import COUNT, GO_VERSIONS, PROGRAMS, rows
from harness.processes import check, clean_environment, wait_until


class MatrixTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        leaf = cls.authority.leaf("good")
        return {"good": leaf, "h2": leaf, "plain": None}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.rows = rows(cls.origin, cls.ca, cls.directory, os.environ.get("WEIR_E2E_ROWS", ""))

    def test_every_client(self):
        table, wrong = [], []
        for row in self.rows:
            pids = self.run_clients(row)
            faults = self.faults_opaque(row, pids) if row.opaque else self.faults_read(row, pids)
            wrong += [f"{row.name}: {fault}" for fault in faults]
            what = row.opaque or f"{row.library}, HTTP/{row.version}"
            table.append(f"| {row.name} | {'opaque: ' if row.opaque else ''}{what} | {'ok' if not faults else 'WRONG'} |")
        print("\n" + "\n".join(table))
        self.assert_no_mismatch(wrong)

    def run_clients(self, row):
        pids = set()
        for arguments, typed in row.commands:
            process = subprocess.Popen(
                [str(part) for part in arguments],
                env=clean_environment() | {"HOME": str(self.directory)} | row.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            )
            if typed:
                self.type_to(process, row, typed)
            out, err = process.communicate(timeout=120)
            pids.add(process.pid)
            if process.returncode != 0 and not row.may_fail:
                raise AssertionError(f"{row.name}: {arguments}: {out[-2000:]}{err[-2000:]}")
        return pids

    def type_to(self, process, row, typed):
        process.stdin.write(typed)
        process.stdin.flush()
        if row.stays:
            wait_until(lambda: len(self.records_of(row)) >= COUNT or process.poll() is not None, 20, row.name)
            process.kill()
        # The last request asks the server to close, which ends the client.
        process.wait(30)

    def records_of(self, row):
        mark, port = "/" + row.name.replace(" ", "-") + "/", self.origin.ports[row.server]
        return [record for record in self.agent.exchanges()
                if mark in record.get("url.full", "") and record["network.peer.port"] == port]

    def faults_read(self, row, pids):
        try:
            self.agent.wait_for(lambda: len(self.records_of(row)) >= COUNT, f"{COUNT} records", timeout=8)
        except AssertionError as error:
            first = str(error).splitlines()[0]
            return [f"{len(self.records_of(row))} of {COUNT} records. {first[:600]}"]
        faults = []
        found = collections.Counter()
        for record in self.records_of(row):
            i = int(record["url.full"].rpartition("/")[2].partition("?")[0]) if "git" != row.name else int(
                record["url.full"].split("/git/")[1].split("/")[0])
            found[i] += 1
            expected = {
                "http.request.method": row.methods[i % 2],
                "http.response.status_code": 200,
                "network.protocol.version": row.version,
                "weir.tls.library": row.library,
                "weir.source": ["native"],
                "network.peer.port": self.origin.ports[row.server],
            }
            if row.methods[i % 2] == "POST":
                expected["http.request.body.size"] = i
            if len(row.commands) in (1, COUNT) and "apt" not in row.name and "git" != row.name:
                expected["process.pid"] = next(iter(pids)) if len(pids) == 1 else record["process.pid"]
            for key, value in expected.items():
                if record.get(key) != value:
                    faults.append(f"request {i}: {key} is {record.get(key)!r}, not {value!r}")
            if "weir.incomplete" in record:
                faults.append(f"request {i}: {record['weir.incomplete']}")
        faults += [f"request {i}: {found[i]} records" for i in range(COUNT) if found[i] != 1]
        return faults

    def faults_opaque(self, row, pids):
        def connections():
            # Some try ::1 as well, where nobody listens.
            return [record for record in self.agent.feed.records()
                    if record["weir.record"] == "connection" and record.get("process.pid") in pids
                    and record["network.peer.address"] == "127.0.0.1"]

        self.agent.wait_for(connections, "a connection record")
        faults = []
        for record in connections():
            if record.get("weir.opaque.reason") != row.opaque:
                faults.append(f"reason {record.get('weir.opaque.reason')!r}")
            if record.get("weir.tls.sni") != "localhost":
                faults.append(f"SNI {record.get('weir.tls.sni')!r}")
            if not record.get("weir.bytes.sent") or not record.get("weir.bytes.received"):
                faults.append("no byte totals")
        return faults + (["an exchange record"] if self.records_of(row) else [])


class GoTest(EndToEndTest):
    """A Write that has sent all is told, whether or not its goroutine ever runs again: the program may end with the answer."""

    def test_a_write_that_never_returns(self):
        agent = self.start_agent()
        for version in GO_VERSIONS:
            program = go_program(self.directory, version, PROGRAMS / "held_write.go")
            client = check([program, f"localhost:{self.origin.port}", f"/held/{version}", self.ca])
            wanted = self.url(f"/held/{version}")
            agent.wait_for(lambda: any(record.get("url.full") == wanted for record in agent.exchanges()), wanted)
            [record] = [record for record in agent.exchanges() if record.get("url.full") == wanted]
            said = (record["process.pid"], record["http.request.method"], record["http.response.status_code"],
                    record.get("weir.incomplete"))
            self.assertEqual(said, (client.pid, "GET", 200, None))


class GitTest(EndToEndTest):
    """A repository is cloned and pushed to over https: each request that the server answered has its record."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.origin.start_git()

    def git(self, *arguments):
        environment = clean_environment() | {
            "HOME": str(self.directory), "GIT_CONFIG_NOSYSTEM": "1", "GIT_SSL_CAINFO": str(self.ca),
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@localhost",
            "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@localhost",
        }
        subprocess.run(["git", *map(str, arguments)], env=environment, check=True, capture_output=True)

    def make_repository(self, name, kibibytes):
        """One that holds a file of random bytes."""
        repository, work = self.origin.directory / "repositories" / name, self.directory / f"work-{name}"
        self.git("init", "-q", "-b", "main", work)
        (work / "file").write_bytes(os.urandom(kibibytes * 1024))
        self.git("-C", work, "add", "file")
        self.git("-C", work, "commit", "-q", "-m", "a file")
        self.git("clone", "-q", "--bare", work, repository)
        self.git("-C", repository, "config", "http.receivepack", "true")

    def test_clone_and_push(self):
        self.make_repository("big", 3000)
        copy = self.directory / "copy"
        self.git("clone", "-q", self.url("/repositories/big"), copy)
        original = self.directory / "work-big" / "file"
        self.assertEqual((copy / "file").read_bytes(), original.read_bytes())
        # More than http.postBuffer: git sends it in chunks.
        (copy / "other").write_bytes(os.urandom(2_000_000))
        self.git("-C", copy, "add", "other")
        self.git("-C", copy, "commit", "-q", "-m", "another")
        self.git("-C", copy, "push", "-q", "origin", "main")

        answered = [request for request in self.origin.requests() if "/repositories/" in request["path"]]
        self.assertGreaterEqual(len(answered), 6)
        records = self.agent.wait_for_exchanges(self.origin.port, len(answered))

        def told(record):
            path = self.origin.path_of(record["url.full"]).partition("?")[0]
            return (record["network.local.port"], record["http.request.method"], path,
                    record["http.response.status_code"], record["http.request.body.size"])

        # nginx had the whole body before it passed the request on.
        served = [(request["client_port"], request["method"], request["path"], request["status"],
                   int(request["body_size"] or 0)) for request in answered]
        self.assertEqual(sorted(map(told, records)), sorted(served))
        for record in records:
            self.assertEqual(record["weir.tls.library"], "gnutls")
            self.assertTrue(record["process.executable.name"].startswith("git-remote-http"), record)
            self.assertNotIn("weir.incomplete", record)
        self.assertGreater(max(record["http.response.body.size"] for record in records), 3_000_000)
        self.assertGreater(max(record["http.request.body.size"] for record in records), 2_000_000)


if __name__ == "__main__":
    unittest.main()
