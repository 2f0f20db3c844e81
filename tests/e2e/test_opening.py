"""What is opened and what is left closed: SOCKS 5, programs that reject the certificate, mutual TLS."""

import http.server
import re
import shutil
import ssl
import threading
import unittest
from datetime import datetime, timedelta, timezone

from harness import clients
from harness.agent import WEIR
from harness.case import EndToEndTest
from harness.processes import check, run

REJECTED = 60  # curl: the peer's certificate can't be verified
REASON = "certificate rejected by client"


class OpeningTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "clear": None}

    def records(self, agent, kind, port, count):
        def found():
            return [r for r in agent.feed.records() if r["weir.record"] == kind and r.get("server.port") == port]

        agent.wait_for(lambda: len(found()) >= count, f"{count} records of kind {kind}")
        self.assertEqual(len(found()), count)
        return found()

    def configured(self, text, *options):
        file = self.directory / f"{self.id().rpartition('.')[2]}.yaml"
        file.write_text(text)
        return self.start_agent("--config", file, *options)

    def pinned(self, agent, path, program=clients.CURL):
        """A client that trusts its own CA alone, whatever the environment says."""
        options = ("-x", f"http://{agent.proxy_address()}")
        command = [program, *clients.curl_command(self.url(path), *options, ca=self.ca)[1:]]
        return run([*map(str, command)], timeout=40)

    def copy_of_curl(self, name):
        copy = self.directory / name
        shutil.copy(clients.CURL, copy)
        return copy

    def test_socks(self):
        agent = self.start_agent()
        trusted = agent.state_dir / "ca" / "ca.crt"
        for kind in ("socks5", "socks5h"):
            for server in ("good", "clear"):
                port = self.origin.ports[server]
                url = f"{'https' if server == 'good' else 'http'}://localhost:{port}/{kind}-{server}"
                command = clients.curl_command(url, "-x", f"{kind}://{agent.proxy_address()}", "-4", ca=trusted)
                curl, (answer,) = clients.run_json(command)
                self.assertEqual(answer["status"], 200)
                (record,) = [
                    r for r in agent.wait_for_exchanges(port, 1 if kind == "socks5" else 2)
                    if r.get("url.full", "").endswith(f"/{kind}-{server}")
                ]
                self.assertEqual(record["process.pid"], curl.pid)
                self.assertEqual(record["weir.source"], ["proxy"])
                self.assertEqual(record["http.response.status_code"], 200)
                self.assertEqual(record["weir.decision"], "bumped" if server == "good" else "redirected")

    def test_a_program_that_pins_is_passed_through(self):
        agent = self.configured("native: {enabled: false}\nproxy: {passthrough_after: 2, passthrough_seconds: 600}\n")
        program = self.copy_of_curl("pinning-curl")
        for count in (1, 2):
            self.assertEqual(self.pinned(agent, "/pinned", program).status, REJECTED)
            # The next one must find this one's end counted.
            agent.wait_for(lambda: agent.counters()["proxy"]["client_rejected_certificate"] == count, "not counted")
        passed = self.pinned(agent, "/pinned", program)
        self.assertEqual(passed.status, 0, passed.stderr)
        self.assertEqual([r["path"] for r in self.origin.requests() if r["path"] == "/pinned"], ["/pinned"])

        connections = self.records(agent, "connection", self.origin.port, 3)
        self.assertEqual([r["weir.opaque.reason"] for r in connections], [REASON] * 3)
        (record,) = [r for r in connections if r["weir.decision"] == "passed_through"]
        self.assertEqual(record["process.pid"], passed.pid)
        until = re.fullmatch(f"{REASON}, passed through until (.*)", record["weir.policy.rule"]).group(1)
        left = datetime.fromisoformat(until.replace("Z", "+00:00")) - datetime.now(timezone.utc)
        self.assertTrue(timedelta(seconds=500) < left <= timedelta(seconds=600), left)

        (told,) = agent.status()["proxy"]["passed_through"]
        self.assertEqual(told["process.executable.path"], str(program))
        self.assertEqual((told["server.address"], told["until"]), ("localhost", until))
        self.assertIn(f"{program} to localhost: passed through until {until}",
                      check([WEIR, "status", "--state-dir", agent.state_dir]).stdout)
        # Nobody else is.
        self.assertEqual(self.pinned(agent, "/other", self.copy_of_curl("another-curl")).status, REJECTED)
        self.assertNotIn("/other", {r["path"] for r in self.origin.requests()})

    def test_the_native_tap_reads_what_is_passed_through(self):
        agent = self.configured("proxy: {passthrough: [localhost]}\n")
        passed = self.pinned(agent, "/both")
        self.assertEqual(passed.status, 0, passed.stderr)
        (record,) = agent.wait_for_exchanges(self.origin.port, 1)
        self.assertEqual((record["process.pid"], record["weir.source"]), (passed.pid, ["native"]))
        self.assertEqual(record["weir.decision"], "passed_through")
        self.assertEqual(record["http.response.status_code"], 200)

    def mutual_origin(self):
        """Takes who shows the certificate `partner`, and says whom it took; gives its port and that certificate."""
        good, partner = self.authority.leaf("mutual"), self.authority.self_signed("partner")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(good.certificate, good.key)
        context.load_verify_locations(partner.certificate)
        context.verify_mode = ssl.CERT_REQUIRED

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = dict(pair[0] for pair in self.connection.getpeercert()["subject"])["commonName"].encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def get_request(self):
                connection, address = super().get_request()
                connection.settimeout(20)
                return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

            def handle_error(self, *_):
                pass  # who shows nothing is refused

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(lambda: (server.shutdown(), thread.join(), server.server_close()))
        return server.server_address[1], partner

    def test_a_server_that_wants_a_certificate_gets_the_clients_own(self):
        port, partner = self.mutual_origin()
        agent = self.configured("native: {enabled: false}\n")
        own = ("--cert", partner.certificate, "--key", partner.key, "-x", f"http://{agent.proxy_address()}")
        body = self.directory / "own"
        clients.run_json(clients.curl_command(f"https://localhost:{port}/", *own, ca=self.ca, output=body))
        self.assertEqual(body.read_text(), "partner")
        (record,) = self.records(agent, "connection", port, 1)
        self.assertEqual(record["weir.decision"], "passed_through")
        self.assertEqual(record["weir.opaque.reason"], "upstream asks for a client certificate")

    def test_a_server_that_wants_a_certificate_gets_the_configured_one(self):
        port, partner = self.mutual_origin()
        file = self.directory / "partner.pem"
        file.write_text(partner.certificate.read_text() + partner.key.read_text())
        file.chmod(0o600)
        agent = self.configured(f"proxy: {{client_certificates: ['localhost={file}']}}\n")
        body = self.directory / "configured"
        command = clients.curl_command(f"https://localhost:{port}/configured", output=body)
        curl, _ = clients.run_json(agent.exec_command(*command))
        self.assertEqual(body.read_text(), "partner")
        (record,) = agent.wait_for_exchanges(port, 1)
        self.assertEqual((record["process.pid"], record["weir.decision"]), (curl.pid, "bumped"))

    def test_nobody_opts_out_of_a_rule_by_rejecting(self):
        policy = self.directory / "inspecting.yaml"
        policy.write_text("default: allow\nrules:\n  - {deny: secret, host: localhost, path: /secret}\n")
        agent = self.configured(f"policy: {policy}\nnative: {{enabled: false}}\nproxy: {{passthrough_after: 1}}\n")
        for count in (1, 2, 3):
            self.assertEqual(self.pinned(agent, "/inspected").status, REJECTED)
            agent.wait_for(lambda: agent.counters()["proxy"]["client_rejected_certificate"] == count, "not counted")
        self.assertNotIn("/inspected", {r["path"] for r in self.origin.requests()})
        self.assertEqual(agent.counters()["proxy"]["passed_through"], 0)


if __name__ == "__main__":
    unittest.main()
