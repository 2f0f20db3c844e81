"""Bodies of awkward sizes, both ways, through every library and every way of calling it: each recorded body is the one
that was sent, or the record's gap is exactly what it lacks. In the short form some ways only."""

import hashlib
import os
import unittest

from harness.case import SOAK, EndToEndTest
from harness.transfers import WAYS

SIZES = (1, 8191, 8192, 8193, 16383, 16384, 16385, 32769, 1 << 20)
LARGE = 64 << 20
EMPTY = (0, hashlib.sha256(b"").hexdigest())
# In the short form.
SHORT_WAYS = ("openssl-3", "openssl-node", "openssl-peek", "gnutls-send", "gnutls-cork", "gnutls-packet", "nss-peek",
              "go-1.23", "cleartext-sendfile")
SHORT_LARGE_WAYS = ("openssl-3",)


class Sizes(EndToEndTest):
    @classmethod
    def certificates(cls):
        leaf = cls.authority.leaf("good")
        return {"good": leaf, "h2": leaf, "plain": None}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        wanted = os.environ.get("WEIR_E2E_WAYS", "")
        every = SOAK or wanted
        cls.ways = [way for way in WAYS if wanted in way.name and (every or way.name in cls.short_ways())]
        for size in cls.sizes():
            cls.origin.make_file(size)
        configuration = cls.directory / "bodies.yaml"
        configuration.write_text(cls.configuration())
        cls.agent = cls.start_class_agent("--bodies", "--config", configuration)

    def paths(self, way, size):
        return f"/uploads/{way.name}/{size}", f"/files/{way.name}/{size}"

    def faults_of_way(self, way, paths, may_lose=False):
        """Sends and fetches over one connection what the paths say; gives what is wrong, and each path's lost bytes."""
        wrong, lost = [], []
        try:
            self.transfer(way, paths)
            for path in paths:
                faults, gap = self.faults_of(way, path, may_lose)
                wrong += faults + ([f"{path}: {gap} bytes were lost"] if gap and not may_lose else [])
                lost.append(gap)
        except AssertionError as error:
            wrong.append(f"{way.name}: {error}")
        return wrong, lost

    def transfer(self, way, paths):
        requests = []
        for path in paths:
            size = int(path.rpartition("/")[2])
            requests.append(f"PUT:{path}={self.origin.file(size)}" if "uploads" in path else f"GET:{path}")
        answers = way.run(self.origin, self.ca, self.directory, requests)
        for path, answer in zip(paths, answers, strict=True):
            size = int(path.rpartition("/")[2])
            if "uploads" in path:
                self.assertEqual(self.origin.uploaded_hash(path), self.origin.hashes[size], path)
            else:
                self.assertEqual((answer["size"], answer["sha256"]), (size, self.origin.hashes[size]), path)

    def records_of(self, path):
        return [record for record in self.agent.exchanges() if record.get("url.full", "").endswith(path)]

    def record_of(self, path):
        self.agent.wait_for(lambda: self.records_of(path), f"the record of {path}", 60)
        records = self.records_of(path)
        self.assertEqual(len(records), 1, path)
        return records[0]

    def faults_of(self, way, path, may_lose):
        """What is wrong with its record, and how many bytes it says were lost."""
        record = self.record_of(path)
        gap = record.get("weir.gap.bytes", 0)
        size, sent = int(path.rpartition("/")[2]), path.startswith("/uploads/")
        body = (size, self.origin.hashes[size])
        expected = {
            "weir.source": ["native"],
            "weir.tls.library": way.library,
            "network.protocol.version": way.version,
            "http.request.method": "PUT" if sent else "GET",
            "http.response.status_code": 201 if sent else 200,
            "http.request.body.size": size if sent else 0,
            "http.response.body.size": 0 if sent else size,
        }
        # The answer to what filled the ring may come before there is room again: then it is in the gap, whole.
        answer_is_lost = may_lose and sent and gap > 0 and "http.response.status_code" not in record
        if answer_is_lost and way.version == "1.1":
            expected |= {"http.response.status_code": None, "http.response.body.size": None}
            gap -= self.answer_bytes(path)
        faults = [
            f"{path}: {key} is {record.get(key)!r}, not {value!r}"
            for key, value in expected.items()
            if record.get(key) != value
        ]
        if gap and way.version == "2":
            return self.faults_of_stream(record, size, sent), gap
        kept = record.get("weir.request.body" if sent else "weir.response.body", EMPTY)
        if gap == 0 and (kept != body or "weir.incomplete" in record or record.get("weir.body.truncated")):
            faults.append(f"{path}: {kept[0]} bytes, not the right {size}, and no gap: {record.get('weir.incomplete')}")
        if gap > 0 and (kept[0] + gap != size or not record.get("weir.body.truncated")):
            faults.append(f"{path}: {kept[0]} bytes and a gap of {gap} are not {size}")
        if (sent and way.unread) != (gap == size):
            faults.append(f"{path}: a gap of {gap}")
        return faults, 0 if sent and way.unread else gap

    def answer_bytes(self, path):
        [request] = [request for request in self.origin.requests() if request["path"] == path]
        return request["answer_bytes"]

    def faults_of_stream(self, record, size, sent):
        """Behind a gap nobody knows whose the next frames are: the connection accounts for the rest."""
        def connections():
            return [other for other in self.agent.feed.records() if other["weir.record"] == "connection"
                    and other["weir.final"] and other["weir.connection.id"] == record["weir.connection.id"]]

        connection = self.agent.wait_for(connections, "the connection's record")[0]
        kept = record.get("weir.request.body" if sent else "weir.response.body", EMPTY)[0]
        gap, unparsed = connection.get("weir.gap.bytes", 0), connection.get("weir.unparsed.bytes", 0)
        fault = f"{record['url.full']}: {kept} bytes, its connection's gap of {gap} and {unparsed} unparsed: not {size}"
        return [] if kept + gap + unparsed >= size and record["weir.incomplete"] == "gap" else [fault]


class SmallSizesTest(Sizes):
    @classmethod
    def short_ways(cls):
        return SHORT_WAYS

    @classmethod
    def sizes(cls):
        return SIZES

    @classmethod
    def configuration(cls):
        return ""

    def test_every_way(self):
        wrong = []
        for way in self.ways:
            paths = [path for size in SIZES for path in self.paths(way, size)]
            faults, _ = self.faults_of_way(way, paths)
            wrong += faults
            print(f"{way.name}: {'WRONG' if faults else 'ok'}", flush=True)
        self.assert_no_mismatch(wrong)


class LargeSizeTest(Sizes):
    """In a ring that holds all of it: whole."""

    RING_BYTES = 268435456
    MAY_LOSE = False

    @classmethod
    def sizes(cls):
        return (LARGE,)

    @classmethod
    def configuration(cls):
        engine = "engine:\n  body_bytes: 134217728\n  queue_bytes: 268435456\n"
        return f"store: false\nnative:\n  ring_bytes: {cls.RING_BYTES}\n{engine}"

    @classmethod
    def short_ways(cls):
        return SHORT_LARGE_WAYS

    def test_every_way(self):
        wrong = []
        for way in self.ways:
            lost, faults = [], []
            for path in self.paths(way, LARGE):
                # One after the other: what begins while the ring is full has no record.
                more, gaps = self.faults_of_way(way, [path], self.MAY_LOSE)
                faults += more
                lost += gaps
            wrong += faults
            print(f"{way.name}: bytes lost, sent and received: {lost} {'WRONG' if faults else 'ok'}", flush=True)
        self.assert_no_mismatch(wrong)


@unittest.skipUnless(SOAK, "in the long form")
class LargeSizeInTheUsualRingTest(LargeSizeTest):
    """One call can fill it: what it has no room for is a gap."""

    RING_BYTES = 33554432
    MAY_LOSE = True


if __name__ == "__main__":
    unittest.main()
