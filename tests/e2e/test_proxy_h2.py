"""HTTP/2 through the proxy: with an origin that speaks it, too, and translated for one that doesn't."""

import json
import queue
import subprocess
import threading
import unittest

from harness import clients
from harness.case import SOAK, EndToEndTest
from harness.footprint import private_kib
from harness.processes import check, end, spawn

H2 = clients.SOURCES / "h2"


class NodeOrigin:
    """clients/h2/origin.js: `requests` gives what it said of each."""

    def __init__(self, way, files):
        command = ["node", H2 / "origin.js", way, files.certificate, files.key]
        self.process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._said = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = self._said.get(timeout=20)["port"]

    def _read(self):
        for line in self.process.stdout:
            self._said.put(json.loads(line))

    def next_request(self, path):
        """The next one of that path; what came before it is forgotten."""
        while True:
            told = self._said.get(timeout=10)
            if told["path"] == path:
                return told

    def is_silent(self):
        return self._said.empty()

    def stop(self):
        self.process.stdin.close()
        end(self.process)
        self.process.stdout.close()


def pairs(raw):
    return list(zip(raw[::2], raw[1::2]))


class HttpTwoTest(EndToEndTest):
    WAY = "h2"

    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "h2": cls.authority.leaf("h2")}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.node = NodeOrigin(cls.WAY, cls.authority.leaf("node"))
        cls.addClassCleanup(cls.node.stop)
        cls.agent = cls.start_class_agent()

    def run_node(self, *steps, port=None):
        """The client's end and what it said of each step."""
        command = ["node", H2 / "client.js", str(port or self.node.port), *steps]
        return clients.run_json(self.agent.exec_command(*command))

    def one_record(self, path, port=None):
        ending = f":{port or self.node.port}{path}"

        def found():
            return [r for r in self.agent.exchanges() if r.get("url.full", "").endswith(ending) and r["weir.final"]]

        self.agent.wait_for(found, f"a record of {ending}")
        (record,) = found()
        return record


class SameProtocolTest(HttpTwoTest):
    def test_curl_gets_what_the_origin_speaks(self):
        for name, version in (("h2", "2"), ("good", "1.1")):
            port = self.origin.ports[name]
            command = clients.curl_command(f"https://localhost:{port}/curl", "--http2", "-w", "%{http_version}\n")
            curl = check(self.agent.exec_command(*command))
            self.assertIn(version, curl.stdout.split("\n")[-2:][0])
            record = self.one_record("/curl", port)
            self.assertEqual(record["network.protocol.version"], version)
            self.assertEqual(record["weir.source"], ["proxy"])
            self.assertEqual(record["http.response.status_code"], 200)
            self.assertEqual(record["process.pid"], curl.pid)

    def test_a_post_with_everything(self):
        node, (answer,) = self.run_node("post=/echo?all")
        got = self.node.next_request("/echo?all")
        sent = [("x-many", "b"), ("x-many", "a"), ("x-many", "b"),
                ("x-none", ""), ("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"),
                ("content-type", "application/grpc")]
        head = pairs(got["head"])
        self.assertEqual([pair for pair in head if pair[0][0] != ":"], sent)
        self.assertIn((":method", "POST"), head)
        self.assertEqual(got["size"], 100000)
        self.assertEqual(got["trailers"].get("x-end"), "of request")
        self.assertEqual(answer["status"], 200)
        self.assertEqual([p for p in pairs(answer["head"]) if p[0].startswith("x-")],
                         [("x-twice", "1"), ("x-twice", "2"), ("x-empty", "")])
        self.assertEqual(answer["size"], 100000)
        self.assertEqual(answer["trailers"], {"grpc-status": "0", "x-late": "yes"})
        record = self.one_record("/echo?all")
        self.assertEqual(record["process.pid"], node.pid)
        self.assertEqual(record["weir.stream.id"], answer["id"])
        self.assertEqual(record["http.request.header.x-many"], ["b", "a", "b"])
        self.assertEqual(record["rpc.response.status_code"], "OK")
        self.assertEqual(record["weir.decision"], "bumped")

    def test_pieces_go_both_ways_while_both_are_open(self):
        _, (answer,) = self.run_node("echo")
        self.assertEqual(answer["text"], "onetwothree")
        self.assertEqual(answer["order"], ["sent", "got"] * 3)

    def test_an_event_arrives_while_the_response_is_open(self):
        _, (answer,) = self.run_node("events")
        self.assertEqual(answer["order"], ["first"])
        self.assertEqual(answer["text"], "data: first\n\ndata: second\n\n")

    def test_hints_and_head(self):
        _, (hinted, head) = self.run_node("get=/hints", "head=/head")
        self.assertEqual((hinted["hints"], hinted["status"], hinted["text"]), ([103], 200, "after hints"))
        self.assertEqual((head["status"], head["size"]), (200, 0))
        self.assertIn(("content-length", "5"), pairs(head["head"]))

    def test_resets_keep_their_codes(self):
        _, (reset, cancelled, after) = self.run_node("get=/reset", "cancel", "get=/after")
        self.assertEqual(reset["code"], 11)
        self.assertEqual(self.node.next_request("/never")["aborted"], 5)
        self.assertEqual(after["status"], 200)

    def test_streams_at_once(self):
        _, (many,) = self.run_node("many=90")
        self.assertEqual(many, {"statuses": [200], "ids": 90})
        self.agent.wait_for(
            lambda: len({r["weir.stream.id"] for r in self.agent.exchanges(self.node.port) if "/many/" in r["url.full"]})
            == 90, "90 streams' records")

    def test_extended_connect(self):
        _, (talk,) = self.run_node("connect")
        self.assertEqual((talk["allowed"], talk["status"], talk["text"]), (True, 200, "pingpong"))
        record = self.one_record("/socket")
        self.assertEqual((record["http.request.method"], record["http.response.status_code"]), ("CONNECT", 200))

    def test_a_client_that_dies_ends_its_streams(self):
        command = self.agent.exec_command("node", H2 / "client.js", str(self.node.port), "hang")
        client = spawn(command, stdout=subprocess.PIPE, text=True)
        self.addCleanup(client.stdout.close)
        self.addCleanup(end, client)
        self.assertEqual(client.stdout.readline(), '{"hangs":true}\n')
        client.kill()
        while self.node.next_request("/events").get("aborted") is None:
            pass

    def test_an_origin_that_leaves(self):
        _, (last,) = self.run_node("get=/leave")
        self.assertEqual((last["status"], last["text"]), (200, "last words"))


class ContentTest(HttpTwoTest):
    """Large content, both ways, and sides that don't read."""

    SIZE = 1_000_000_000 if SOAK else 50_000_000
    # Of the worker's memory, whatever passes: windows, buffers, what the sinks hold.
    GROWTH = 64 * 1024 * 1024

    def memory(self):
        return private_kib(self.agent.worker_pid()) * 1024

    def test_a_large_file_comes_whole(self):
        self.origin.make_file(self.SIZE)
        port = self.origin.ports["h2"]
        before = self.memory()
        body = self.directory / "body"
        url = f"https://localhost:{port}/files/h2/{self.SIZE}"
        clients.run_json(self.agent.exec_command(*clients.curl_command(url, "--http2", output=body)))
        self.assertEqual(clients.hash_of(body), self.origin.hashes[self.SIZE])
        self.assertLess(self.memory() - before, self.GROWTH)
        record = self.one_record(f"/files/h2/{self.SIZE}", port)
        self.assertGreaterEqual(record["http.response.body.size"], self.SIZE)

    def test_a_large_upload_comes_whole(self):
        self.origin.make_file(self.SIZE)
        port = self.origin.ports["h2"]
        url = f"https://localhost:{port}/uploads/h2/large"
        command = clients.curl_command(url, "--http2", "-T", self.origin.file(self.SIZE))
        _, (answer,) = clients.run_json(self.agent.exec_command(*command))
        self.assertEqual(answer["status"], 201)
        self.assertEqual(self.origin.uploaded_hash("/uploads/h2/large"), self.origin.hashes[self.SIZE])

    def test_a_client_that_does_not_read_holds_the_origin(self):
        before = self.memory()
        _, (slow, after) = self.run_node("slow", "get=/after")
        told = self.node.next_request("/endless")
        self.assertLess(told["written"], 20_000_000)
        self.assertLess(self.memory() - before, self.GROWTH)
        self.assertEqual(after["status"], 200)


class TranslatedTest(HttpTwoTest):
    """A client that speaks HTTP/2 alone, an origin that speaks HTTP/1.1 alone."""

    WAY = "h1"

    def test_a_post_with_everything(self):
        node, (answer,) = self.run_node("post=/echo?all")
        got = self.node.next_request("/echo?all")
        sent = [("host", f"localhost:{self.node.port}"), ("x-many", "b"), ("x-many", "a"), ("x-many", "b"),
                ("x-none", ""), ("te", "trailers"), ("connection", "te"), ("cookie", "a=1; b=2"),
                ("content-type", "application/grpc"), ("transfer-encoding", "chunked")]
        self.assertEqual(pairs(got["head"]), sent)
        self.assertEqual(got["size"], 100000)
        self.assertEqual(got["trailers"].get("x-end"), "of request")
        self.assertEqual((answer["status"], answer["size"]), (200, 100000))
        self.assertEqual([p for p in pairs(answer["head"]) if p[0].startswith("x-")],
                         [("x-twice", "1"), ("x-twice", "2"), ("x-empty", "")])
        self.assertNotIn("transfer-encoding", dict(pairs(answer["head"])))
        self.assertEqual(answer["trailers"], {"grpc-status": "0", "x-late": "yes"})
        record = self.one_record("/echo?all")
        self.assertEqual(record["process.pid"], node.pid)
        self.assertEqual(record["network.protocol.version"], "2")
        self.assertEqual(record["weir.stream.id"], answer["id"])

    def test_pieces_go_both_ways_while_both_are_open(self):
        # Several connections: an upstream's answer may come while the client's first bytes are being taken in.
        for _ in range(8):
            _, (answer,) = self.run_node("echo")
            self.assertEqual((answer["order"], answer["text"]), (["sent", "got"] * 3, "onetwothree"))

    def test_an_event_arrives_while_the_response_is_open(self):
        _, (answer,) = self.run_node("events")
        self.assertEqual(answer["order"], ["first"])
        self.assertEqual(answer["text"], "data: first\n\ndata: second\n\n")

    def test_hints_and_head(self):
        _, (hinted, head) = self.run_node("get=/hints", "head=/head")
        self.assertEqual((hinted["hints"], hinted["status"], hinted["text"]), ([103], 200, "after hints"))
        self.assertEqual((head["status"], head["size"]), (200, 0))
        self.assertIn(("content-length", "5"), pairs(head["head"]))

    def test_extended_connect_is_not_offered(self):
        _, (talk,) = self.run_node("connect")
        self.assertFalse(talk["allowed"])

    def test_an_upstream_that_breaks_off(self):
        _, (broken, after) = self.run_node("get=/reset", "get=/after")
        self.assertEqual(broken["status"], 502)
        self.assertEqual(after["status"], 200)

    def test_streams_at_once_and_nginx(self):
        _, (many, again) = self.run_node("many=20", "many=20", port=self.origin.port)
        self.assertEqual(many, {"statuses": [200], "ids": 20})
        self.assertEqual(again, {"statuses": [200], "ids": 20})
        connections = {r["connection"] for r in self.origin.requests() if "/many/" in r["path"]}
        self.assertLessEqual(len(connections), 20)


class FromHttpOneTest(HttpTwoTest):
    """A client that speaks HTTP/1.1 alone, an origin that speaks HTTP/2 alone."""

    def curl(self, path, *options):
        body = self.directory / "body"
        head = self.directory / "head"
        url = f"https://localhost:{self.node.port}{path}"
        command = clients.curl_command(url, "--http1.1", "--dump-header", head, *options, output=body)
        finished, (answer,) = clients.run_json(self.agent.exec_command(*command))
        lines = head.read_bytes().decode().split("\r\n\r\n")[-2].split("\r\n")
        return finished, answer["status"], lines, body.read_text()

    def test_an_echo(self):
        sent = self.directory / "sent"
        sent.write_text("y" * 300000)
        chunked = ("-H", "Transfer-Encoding: chunked", "-H", "X-Many: b", "-H", "X-Many: a", "-H", "TE: trailers")
        curl, status, head, body = self.curl("/echo?h1", "--data-binary", f"@{sent}", *chunked)
        self.assertEqual((status, body), (200, "y" * 300000))
        self.assertIn("x-empty: ", head)
        self.assertEqual([line for line in head if "x-twice" in line], ["x-twice: 1", "x-twice: 2"])
        got = self.node.next_request("/echo?h1")
        self.assertEqual(got["size"], 300000)
        fields = pairs(got["head"])
        self.assertEqual([value for name, value in fields if name == "x-many"], ["b", "a"])
        self.assertIn((":authority", f"localhost:{self.node.port}"), fields)
        self.assertFalse({"transfer-encoding", "host", "connection"} & {name for name, _ in fields})
        record = self.one_record("/echo?h1")
        self.assertEqual((record["process.pid"], record["network.protocol.version"]), (curl.pid, "1.1"))

    def test_head_and_kept_connection(self):
        _, status, head, body = self.curl("/head", "--head")
        self.assertEqual(status, 200)
        self.assertIn("content-length: 5", head)
        url = f"https://localhost:{self.node.port}"
        urls = [f"{url}/first", "--output", "/dev/null", f"{url}/second"]
        finished = check(self.agent.exec_command(*clients.curl_command(urls[0], "--http1.1", "-w", "%{num_connects}\n"),
                                                 *urls[1:]))
        self.assertEqual([line for line in finished.stdout.split() if line in "01"], ["1", "0"])

    def test_an_event_arrives_while_the_response_is_open(self):
        url = f"https://localhost:{self.node.port}"
        command = [clients.CURL, "-q", "--silent", "--no-buffer", "--http1.1", "--max-time", "30", f"{url}/events"]
        curl = spawn(self.agent.exec_command(*command), stdout=subprocess.PIPE, text=True)
        self.addCleanup(end, curl)
        self.addCleanup(curl.stdout.close)
        self.assertEqual(curl.stdout.readline(), "data: first\n")
        check(self.agent.exec_command(*clients.curl_command(f"{url}/go-on", "--http1.1")))
        self.assertEqual(curl.stdout.read(), "\ndata: second\n\n")
        self.assertEqual(curl.wait(20), 0)

    def test_a_reset_is_an_answer(self):
        _, status, _, body = self.curl("/reset")
        self.assertEqual(status, 502)
        self.assertIn("reset", body)


if __name__ == "__main__":
    unittest.main()
