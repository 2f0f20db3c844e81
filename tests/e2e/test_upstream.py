"""An upstream whose certificate must not be trusted: the client is told why, and the record says so."""

import unittest

from harness import clients
from harness.case import EndToEndTest
from harness.processes import check

# The server's name here: what error.type says, and words that the client's 502 must hold.
FAULTS = {
    "expired": ("tls_certificate_expired", "expired"),
    "self-signed": ("tls_certificate_self_signed", "self-signed"),
    "wrong-host": ("tls_certificate_wrong_host", "localhost"),
}


class UntrustedUpstreamTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {
            "good": cls.authority.leaf("good"),
            "expired": cls.authority.leaf("expired", days=-1),
            "self-signed": cls.authority.self_signed("self-signed"),
            "wrong-host": cls.authority.leaf("wrong-host", alternative_names="DNS:elsewhere.test"),
        }

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()

    def get(self, name):
        """The client's status and the body it got."""
        body = self.directory / f"{name}-body"
        url = f"https://localhost:{self.origin.ports[name]}/{name}"
        command = clients.curl_command(url, output=body)
        _, (answer,) = clients.run_json(self.agent.exec_command(*command))
        return answer["status"], body.read_text()

    def test_a_good_certificate_passes(self):
        self.assertEqual(self.get("good")[0], 200)

    def test_faults(self):
        for name, (error_type, word) in FAULTS.items():
            with self.subTest(name):
                status, body = self.get(name)
                self.assertEqual(status, 502)
                self.assertIn(word, body)
                self.assertIn(error_type, body)
                (record,) = self.agent.wait_for_exchanges(self.origin.ports[name], 1)
                self.assertEqual(record["error.type"], error_type)
                self.assertEqual(record["http.response.status_code"], 502)
                self.assertEqual(record["weir.decision"], "bumped")
                self.assertEqual(record["weir.source"], ["proxy"])

    def test_nothing_reaches_an_untrusted_origin(self):
        for name in FAULTS:
            self.get(name)
        ports = {request["port"] for request in self.origin.requests()}
        self.assertLessEqual(ports, {self.origin.ports["good"]})

    def test_the_client_itself_refuses_without_weir(self):
        """The certificates are bad indeed, or the tests above prove nothing."""
        for name in FAULTS:
            url = f"https://localhost:{self.origin.ports[name]}/"
            with self.subTest(name), self.assertRaises(AssertionError):
                check(clients.curl_command(url, ca=self.ca))


if __name__ == "__main__":
    unittest.main()
