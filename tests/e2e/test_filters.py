"""`native.only` and `native.except`: what is left out is in no record, and what isn't is recorded as ever."""

import shutil
import unittest

from harness import clients
from harness.agent import WEIR
from harness.case import EndToEndTest
from harness.processes import check, run

WRONG = {
    "only: [prot:443]": ("native.only", "prot:443", "port:"),
    "except: [port:0]": ("native.except", "port:0", "65535"),
    "only: process:curl": ("native.only", "list"),
    "except: [library:tls]": ("native.except", "library:tls", "openssl"),
    "ring_bytes: 3000000": ("native.ring_bytes", "2097152", "4194304"),
}


class FilterTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "other": cls.authority.leaf("other")}

    def configuration(self, *lines):
        file = self.directory / "filters.yaml"
        file.write_text("native:\n" + "".join(f"  {line}\n" for line in lines))
        return file

    def get(self, path, curl=clients.CURL, server="good", prefix=()):
        """Through the proxy with a prefix, whose environment then names the CA."""
        url = f"https://localhost:{self.origin.ports[server]}{path}"
        _, *options = clients.curl_command(url, ca=None if prefix else self.ca)
        return check([*prefix, curl, *options]).pid

    def test_what_is_left_out_has_no_record(self):
        excepted = self.directory / "excepted-curl"
        shutil.copy(clients.CURL, excepted)
        port = self.origin.ports["other"]
        file = self.configuration(f"except: ['process:{excepted}', 'port:{port}', 'library:gnutls']")
        agent = self.start_agent("--config", file)
        silent = {self.get("/by-process", curl=excepted), self.get("/by-port", server="other")}
        library = check(["wget", "-q", "-O", "/dev/null", "--ca-certificate", self.ca, self.url("/by-library")]).pid
        self.get("/proxied", curl=excepted, prefix=agent.exec_command())
        told = self.get("/told")
        agent.wait_for_exchanges(self.origin.port, 2)
        agent.wait_for(
            lambda: {told, library} <= {record.get("process.pid") for record in self.connections(agent)},
            "the connections that are not left out are not recorded",
        )

        records = agent.feed.records()
        self.assertEqual([record for record in records if record.get("process.pid") in silent], [])
        found = {record["url.full"]: record for port in self.origin.ports.values() for record in agent.exchanges(port)}
        self.assertEqual(set(found), {self.url("/told"), self.url("/proxied")})
        self.assertEqual(found[self.url("/told")]["process.pid"], told)
        self.assertEqual(found[self.url("/told")]["weir.source"], ["native"])
        self.assertEqual(found[self.url("/proxied")]["weir.source"], ["proxy"])
        (by_library,) = [record for record in self.connections(agent) if record["process.pid"] == library]
        self.assertEqual(by_library["weir.opaque.reason"], "left out by the configuration")
        self.assertGreater(by_library["weir.bytes.sent"], 0)

        status = agent.status()
        self.assertIn(f"port:{port}", status["native"]["except"])
        self.assertGreaterEqual(status["counters"]["native"]["filtered_connections"], len(silent))
        shown = check([WEIR, "status", "--state-dir", agent.state_dir]).stdout
        self.assertRegex(shown, rf"except: .*port:{port}.*\d connections")

    def connections(self, agent):
        return [record for record in agent.feed.records() if record["weir.record"] == "connection"]

    def test_what_is_wrong_is_named(self):
        for line, words in WRONG.items():
            with self.subTest(line):
                file = self.configuration(line)
                ended = run([WEIR, "agent", "--state-dir", self.directory / "unused", "--config", file], timeout=10)
                self.assertEqual(ended.status, 2)
                self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
                for word in (f"{file}:2", *words):
                    self.assertIn(word, ended.stderr)


if __name__ == "__main__":
    unittest.main()
