"""The store when the agent is killed, the disk is full, or the file isn't what it should be."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import time
import unittest

from harness import clients
from harness.agent import WEIR, Agent
from harness.case import SOAK, EndToEndTest
from harness.load import Load
from harness.processes import alive, check, run, spawn, wait_until

KILLS = 100 if SOAK else 3
KILLS_OF_ONE_STORE = 10  # checking all of it takes longer with each
# What docs/records.md promises: an older record is in the store, as long as the store keeps up. So the load pauses,
# for a sanitized build's sake.
FLUSH_SECONDS = 1.0
PAUSE_US = 1000

SCHEMA_1 = """
PRAGMA page_size = 16384;
CREATE TABLE records(id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, final INTEGER NOT NULL,
  timestamp_ns INTEGER NOT NULL, pid INTEGER, executable_name TEXT, server_address TEXT COLLATE NOCASE,
  status_code INTEGER, opaque_reason TEXT, json TEXT NOT NULL);
CREATE INDEX records_by_time ON records(timestamp_ns);
CREATE INDEX records_by_pid ON records(pid, timestamp_ns) WHERE pid IS NOT NULL;
CREATE INDEX records_by_server ON records(server_address, timestamp_ns) WHERE server_address IS NOT NULL;
PRAGMA application_id = 0x77656972;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


class StoreTest(EndToEndTest):
    def request(self, path):
        check(clients.curl_command(self.url(path, "127.0.0.1"), ca=self.ca))

    def paths(self, records):
        marker = f":{self.origin.port}"
        urls = [record.get("url.full", "") for record in records if record["weir.record"] == "exchange"]
        return [url.partition(marker)[2] for url in urls if marker in url]

    def assert_each_in_feed(self, agent, paths):
        """Exactly once, whatever the store does."""
        agent.wait_for(lambda: set(paths) <= set(self.paths(agent.feed.records())), "not all are recorded")
        recorded = self.paths(agent.feed.records())
        self.assertEqual({path: recorded.count(path) for path in paths}, dict.fromkeys(paths, 1))

    def listed(self, agent, *filters):
        command = [WEIR, "ls", "--json", "--state-dir", agent.state_dir, *filters]
        return clients.json_lines(check(command).stdout)

    def sink(self, agent, name="sqlite"):
        return next(sink for sink in agent.status()["sinks"] if sink["name"] == name)

    def store(self, agent):
        return agent.state_dir / "weir.db"

    def query(self, agent, sql):
        connection = sqlite3.connect(f"file:{self.store(agent)}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def assert_opens(self, agent):
        self.assertEqual(self.query(agent, "PRAGMA integrity_check"), [("ok",)])

    def configuration(self, name, text):
        file = self.directory / f"{name}.yaml"
        file.write_text(text)
        return ["--config", file]


class KillTest(StoreTest):
    def test_killed_at_random_under_load(self):
        """All rounds use one load, so that each request has a URL of its own."""
        total = 0
        with Load(self.origin, self.ca, PAUSE_US) as load:
            for number in range(KILLS):
                if number % KILLS_OF_ONE_STORE == 0:
                    state_dir = self.directory / f"killed-state-{number}"
                    promised = set()
                agent = self.start_agent(name=f"killed-{number}", state_dir=state_dir)
                promised |= self.kill_in_the_middle(agent, FLUSH_SECONDS + random.uniform(0.1, 1.5))
                self.check_store(agent, promised, f"round {number}")
                agent.feed.path.unlink()
                total += len(promised)
            load.finish()
        self.assertGreater(total, 0)

    def kill_in_the_middle(self, agent, seconds):
        """Watches the feed for so long, kills; gives the ids that were in it an interval before."""
        agent.wait_for_exchanges(self.origin.port, 50)
        seen = []  # (when, how many records)
        deadline = time.monotonic() + seconds

        def over():
            count = len(agent.feed.records())  # takes a while: what is counted was there before `when`
            seen.append((time.monotonic(), count))
            return time.monotonic() >= deadline

        wait_until(over, seconds + 30, "the clock stands still")
        pids = [agent.pid, agent.worker_pid()]
        random.shuffle(pids)
        killed_at = time.monotonic()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the worker goes with its broker
        agent.process.wait()
        kept = max((count for when, count in seen if when <= killed_at - FLUSH_SECONDS), default=0)
        return {record["weir.record.id"] for record in agent.feed.records()[:kept]}

    def check_store(self, agent, promised, when):
        self.assert_opens(agent)
        stored = {row[0] for row in self.query(agent, "SELECT id FROM records")}
        self.assertEqual(len(promised - stored), 0, f"lost of {len(promised)}, {when}")
        twice = """SELECT json_extract(json, '$."url.full"') AS url, group_concat(json, char(10)) FROM records
            WHERE kind = 'exchange' AND instr(url, ':{}/load/') GROUP BY url HAVING count(*) > 1"""
        self.assertEqual(self.query(agent, twice.format(self.origin.port)), [], when)


class AloneTest(StoreTest):
    def test_read_without_an_agent(self):
        """Its socket is still there after a kill -9."""
        agent = self.start_agent()
        self.request("/alone")
        agent.wait_for(lambda: "/alone" in self.paths(self.listed(agent)), "it is not stored")
        pids = agent.own_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, pids)), 10, "still there")
        self.assertTrue((agent.state_dir / "agent.sock").exists())
        command = f"cd {agent.state_dir.parent}; exec {WEIR} ls --json --state-dir {agent.state_dir.name}"
        self.assertEqual(self.paths(clients.json_lines(check(["sh", "-c", command]).stdout)), ["/alone"])

    def test_for_its_owner_alone(self):
        agent = self.start_agent()
        agent.stop()
        self.store(agent).chmod(0o666)
        agent.start()
        for file in agent.state_dir.glob("weir.db*"):
            self.assertEqual(file.stat().st_mode & 0o777, 0o600, file)


class DiskFullTest(StoreTest):
    def mount(self, megabytes):
        """A file system of its own as state directory, which goes away whatever happens."""
        directory = self.directory / "small"
        directory.mkdir()
        check(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "weir-e2e", directory])
        self.addCleanup(check, ["umount", "--lazy", directory])
        return directory

    def fill(self, directory):
        """Takes what is left, to the last byte; gives the file."""
        filler = directory / "filler"
        with open(filler, "wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
        return filler

    def test_disk_full(self):
        state_dir = self.mount(16)
        agent = self.start_agent(state_dir=state_dir)
        self.request("/before")
        agent.wait_for(lambda: "/before" in self.paths(self.listed(agent)), "nothing is stored")
        filler = self.fill(state_dir)
        paths = [f"/full/{i}" for i in range(40)]
        for path in paths:
            self.request(path)
        self.assert_each_in_feed(agent, paths)
        self.wait_until_dropping(agent)
        told = check([WEIR, "status", "--state-dir", agent.state_dir]).stdout
        self.assertRegex(told, r"sqlite: .* dropped \(.*full.*free some space")

        filler.unlink()
        after = []

        def stored_again():
            after.append(f"/after/{len(after)}")
            self.request(after[-1])
            return set(after) & set(self.paths(self.listed(agent)))

        agent.wait_for(stored_again, "nothing is stored after there is space again")
        self.assert_each_in_feed(agent, ["/before", *paths, *after])
        self.assert_each_counted(agent)
        self.assertEqual(self.sink(agent)["last_error"], "")
        agent.stop()
        self.assert_opens(agent)

    def wait_until_dropping(self, agent):
        """Makes requests until one doesn't fit: the log may have pages to spare."""

        def dropping():
            self.request("/filling")
            return self.sink(agent)["dropped"] > 0

        agent.wait_for(dropping, "nothing is dropped")

    def assert_each_counted(self, agent):
        """What the feed has, the store has or has counted."""

        def counted():
            feed, store = self.sink(agent, "jsonl"), self.sink(agent)
            return feed["written"] == store["written"] + store["dropped"] and store

        # Before the store is counted: others on this host go on making records.
        fed = {record["weir.record.id"] for record in agent.feed.records()}
        store = agent.wait_for(counted, "records are neither written nor dropped")
        stored = {row[0] for row in self.query(agent, "SELECT id FROM records")}
        self.assertLessEqual(len(fed - stored), store["dropped"])


class RetentionTest(StoreTest):
    def test_old_records_go_while_nothing_is_written(self):
        agent = self.start_agent(name="aging")
        self.request("/young")
        agent.wait_for(lambda: "/young" in self.paths(self.listed(agent)), "nothing is stored")
        agent.stop()
        connection = sqlite3.connect(self.store(agent))
        with connection:
            connection.execute("UPDATE records SET timestamp_ns = timestamp_ns - 7200000000000")
        connection.close()
        options = self.configuration("aging", "retention:\n  max_age_hours: 1\n")
        limited = self.start_agent(*options, name="aged", state_dir=agent.state_dir)
        limited.wait_for(lambda: self.sink(limited)["removed"] > 0, "nothing is removed")
        self.assertEqual(self.paths(self.listed(limited)), [])
        told = check([WEIR, "status", "--state-dir", agent.state_dir]).stdout
        self.assertIn("removed for age or size", told)
        limited.stop()

    def test_size(self):
        limit = 2 << 20
        options = self.configuration("small", f"retention:\n  max_bytes: {limit}\n")
        agent = self.start_agent(*options, name="small")
        with Load(self.origin, self.ca) as load:
            agent.wait_for(lambda: self.sink(agent)["removed"] > 1000, "nothing is removed", 60)
            load.finish()
        self.request("/newest")
        agent.wait_for(lambda: "/newest" in self.paths(self.listed(agent)), "the newest is not kept")
        size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        agent.wait_for(lambda: self.query(agent, size)[0][0] <= 1.5 * limit, "the file stays large", 60)
        agent.stop()
        self.assertLessEqual(self.store(agent).stat().st_size, 1.5 * limit)
        self.assert_opens(agent)


class SchemaTest(StoreTest):
    ID = "c0ffee" + "0" * 58

    def make_version_1(self, agent, rows):
        store = self.store(agent)
        owner = store.stat()
        store.unlink()
        connection = sqlite3.connect(store)
        connection.executescript(SCHEMA_1)
        json = f'{{"weir.record":"process","container.id":"{self.ID}","x":"{"x" * 2000}"}}'
        with connection:
            connection.executemany(
                "INSERT INTO records VALUES(?,'process',1,?,NULL,NULL,NULL,NULL,NULL,?)",
                ((str(i), i, json) for i in range(rows)),
            )
        connection.close()
        for file in store.parent.glob("weir.db*"):
            os.chown(file, owner.st_uid, owner.st_gid)

    def kill_migrating(self, state_dir):
        """It begins as soon as the store is open, and takes long enough."""
        agent = Agent(self.directory, self.ca, name="killed-migrating", state_dir=state_dir)
        self.addCleanup(agent.clean_up)
        agent.process = spawn(agent.command)
        wait_until((state_dir / "weir.db-wal").exists, 30, "the store is not opened")
        agent.process.kill()
        agent.process.wait()

    def test_killed_in_the_middle_of_a_migration(self):
        rows = 50_000
        agent = self.start_agent(name="older")
        agent.stop()
        self.make_version_1(agent, rows)
        self.kill_migrating(agent.state_dir)
        self.assert_opens(agent)
        self.assertEqual(self.query(agent, "PRAGMA user_version"), [(1,)])
        again = self.start_agent(name="migrated", state_dir=agent.state_dir)
        again.wait_for(lambda: self.query(again, "PRAGMA user_version") == [(4,)], "the schema stays old")
        self.assertEqual(len(self.listed(again, "--container", self.ID[:12])), rows)
        self.assertEqual(self.listed(again, "--container", "0"), [])
        self.request("/new")
        again.wait_for(lambda: "/new" in self.paths(self.listed(again, "--limit", "1000")), "nothing is stored")
        again.stop()
        self.assert_opens(agent)
        self.assertEqual(len(self.listed(agent, "--container", self.ID[:12])), rows)


class DamageTest(StoreTest):
    def stopped_agent(self, name):
        agent = self.start_agent(name=name)
        for i in range(30):
            self.request(f"/{name}/{i}")
        self.assert_each_in_feed(agent, [f"/{name}/{i}" for i in range(30)])
        agent.stop()
        return agent

    def digest(self, agent):
        return hashlib.sha256(self.store(agent).read_bytes()).hexdigest()

    def assert_refused(self, agent, what):
        before = self.digest(agent)
        command = [WEIR, "agent", "--state-dir", agent.state_dir]
        ended = run([*command, "--proxy-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"], timeout=30)
        self.assertEqual(ended.status, 1, ended.stderr)
        self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
        self.assertIn(what, ended.stderr)
        self.assertIn("move it away", ended.stderr)
        self.assertEqual(self.digest(agent), before)

    def change(self, agent, sql):
        connection = sqlite3.connect(self.store(agent), isolation_level=None)
        connection.executescript(sql)
        connection.close()

    def test_refused_at_the_start(self):
        agent = self.stopped_agent("refused")
        store = self.store(agent)
        good = store.read_bytes()
        damaged = {
            "not a store of weir's": b"\0" * 16 + good[16:],
            "malformed": good[: len(good) // 2],
        }
        for what, content in damaged.items():
            with self.subTest(what):
                store.write_bytes(content)
                self.assert_refused(agent, what)
        store.write_bytes(good)
        self.change(agent, "PRAGMA journal_mode = DELETE; PRAGMA user_version = 99")
        self.assert_refused(agent, "newer weir")

    def damage_all_but_the_first_page(self, agent):
        size = self.store(agent).stat().st_size
        with open(self.store(agent), "r+b") as file:
            file.seek(16384)
            file.write(b"\xa5" * (size - 16384))

    def test_damaged_pages(self):
        """Capture goes on, the file stays as it is, and a new one takes its place when it is moved away."""
        agent = self.stopped_agent("damaged")
        self.damage_all_but_the_first_page(agent)
        before = self.digest(agent)
        running = self.start_agent(name="undaunted", state_dir=agent.state_dir)
        paths = [f"/undaunted/{i}" for i in range(20)]
        for path in paths:
            self.request(path)
        self.assert_each_in_feed(running, paths)
        running.wait_for(lambda: self.sink(running)["dropped"] > 0, "nothing is dropped")
        self.assertRegex(self.sink(running)["last_error"], "malformed: move it away")
        self.assertIn("move it away", running.log.read_text())
        self.assert_worker_starts_without_the_store(running)
        self.assertEqual(self.digest(agent), before)
        aside = self.directory / "aside"
        aside.mkdir()
        for file in agent.state_dir.glob("weir.db*"):
            shutil.move(file, aside)
        self.request("/anew")
        running.wait_for(lambda: self.sink(running)["last_error"] == "", "the store is still refused")
        running.wait_for(lambda: "/anew" in self.paths(self.listed(running)), "no new store")
        running.stop()
        self.assert_opens(agent)

    def assert_worker_starts_without_the_store(self, agent):
        """A header that is no longer weir's stops an agent that is being started, not a worker's restart."""
        with open(self.store(agent), "r+b") as file:
            header = file.read(16)
            file.seek(0)
            file.write(bytes(16))
        first = agent.worker_pid()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: agent.worker_pid() not in (None, first), 30, "no new worker")
        agent.wait_ready()
        self.request("/restarted")
        self.assert_each_in_feed(agent, ["/restarted"])
        self.assertIn("not a store of weir's", self.sink(agent)["last_error"])
        with open(self.store(agent), "r+b") as file:
            file.write(header)


if __name__ == "__main__":
    unittest.main()
