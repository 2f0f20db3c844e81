"""How programs come to trust the CA: by variables, and by a view of their own of the files with trusted roots."""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from harness import clients
from harness.agent import AS_NOBODY, NOBODY, WEIR, readable_copy
from harness.case import SOAK, EndToEndTest
from harness.processes import check, end, run, spawn, wait_until

BUNDLE = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
# What any program can say about itself: who and where it is, its capabilities and what it does about signals.
ABOUT_ITSELF = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
kept = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs")
print(json.dumps([os.getcwd(), os.umask(0)] + [status[name].split() for name in kept]))
"""
HTTP_CLIENT = """
import http.client, os, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
proxy = urllib.parse.urlsplit(os.environ["https_proxy"])
connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, timeout=30)
connection.set_tunnel(url.hostname, url.port)
connection.request("GET", url.path)
assert connection.getresponse().read()
"""
REQUESTS = "import requests, sys; assert requests.get(sys.argv[1]).status_code == 200"
CERTIFI = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
assert urllib.request.urlopen(sys.argv[1], context=context).read()
"""
PHP = '$c = curl_init($argv[1]); curl_setopt($c, CURLOPT_RETURNTRANSFER, true); exit(curl_exec($c) ? 0 : 1);'

# Requests URL/0, URL/1..., each over its own connection, until told to end; then how many failed.
LOOP = """
import http.client, json, os, ssl, sys, threading, urllib.parse
url, proxy = urllib.parse.urlsplit(sys.argv[1]), urllib.parse.urlsplit(os.environ["https_proxy"])
context = ssl.create_default_context()
done, failed = 0, []
ended = threading.Event()

def read():
    for line in sys.stdin:
        print(json.dumps({"done": done, "failed": failed}), flush=True)
    ended.set()

threading.Thread(target=read).start()
while not ended.is_set():
    try:
        connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context, timeout=30)
        connection.set_tunnel(url.hostname, url.port)
        connection.request("GET", f"{url.path}/{done}")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        connection.close()
    except Exception as error:
        failed.append(repr(error))
    done += 1
"""


def roots_in(store):
    """The certificates' content, base64, in the store's order."""
    text = store.read_bytes()
    if store.suffix == ".p12":
        text = check(["openssl", "pkcs12", "-in", store, "-nokeys", "-passin", "pass:changeit"]).stdout.encode()
    return roots_in_text(text)


def roots_in_text(text):
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----(.*?)-----END", text, re.DOTALL)
    return [b"".join(block.split()) for block in blocks]


class InjectionTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.classes = clients.compile_java(cls.directory)
        cls.agent = cls.start_class_agent()

    def exec_command(self, agent, how, *command):
        injected = agent.exec_command(*command)
        injected[2:2] = ["--inject", how]
        return injected

    def commands(self, how):
        """By name: a command that GETs one URL, and the URL's path."""
        certifi = check([clients.PYTHON, "-c", "import certifi; print(certifi.__path__[0])"]).stdout.strip()
        java = ["java", "-cp", self.classes]
        made = {
            "curl": ["curl", "-q", "-sS", "--fail", "-o", "/dev/null"],
            "wget": ["wget", "-q", "-O", "/dev/null"],
            "http.client": [clients.PYTHON, "-c", HTTP_CLIENT],
            "requests": [clients.PYTHON, "-c", REQUESTS],
            "php": ["php", "-r", PHP],
        }
        made = {name: [*command, self.url(f"/{how}-{name}/0")] for name, command in made.items()}
        for main in ("UrlConnectionRequests", "HttpClientRequests"):
            made[main] = [*java, main, self.url(f"/{how}-{main}"), "1"]
        if how == "mount":
            url = self.url(f"/{how}-certifi/0")
            made["certifi"] = [clients.PYTHON, "-c", CERTIFI, url, f"{certifi}/cacert.pem"]
        return {name: (command, f"/{how}-{name}/0") for name, command in made.items()}

    def test_each_client_trusts_the_ca(self):
        agent = self.start_agent()
        pids = {}
        for how in ("env", "mount"):
            for name, (command, path) in self.commands(how).items():
                with self.subTest(how=how, client=name):
                    pids[path] = check(self.exec_command(agent, how, *command)).pid
        # Whatever another tap saw of it is told by then.
        agent.stop()
        seen = [
            (self.origin.path_of(record["url.full"]), record["process.pid"], record["weir.source"],
             record.get("http.response.status_code"))
            for record in agent.exchanges(self.origin.port)
        ]
        self.assertCountEqual(seen, [(path, pid, ["proxy"], 200) for path, pid in pids.items()])

    def test_mount_takes_the_place_of_the_trust_variables(self):
        def variables(how):
            text = check(self.exec_command(self.agent, how, "env", "-0")).stdout
            return dict(entry.split("=", 1) for entry in text.split("\0") if entry)

        mount, env, both = variables("mount"), variables("env"), variables("both")
        self.assertEqual(both, env)
        self.assertEqual({name: mount.get(name) for name in ("SSL_CERT_FILE", "SYSTEM_WGETRC", "CURL_CA_BUNDLE")},
                         {"SSL_CERT_FILE": None, "SYSTEM_WGETRC": None, "CURL_CA_BUNDLE": None})
        self.assertEqual(mount["https_proxy"], env["https_proxy"])
        self.assertNotIn("trustStore", mount["JAVA_TOOL_OPTIONS"])
        self.assertFalse([value for value in mount.values() if str(self.agent.state_dir) in value])

    def test_the_command_alone_sees_it(self):
        before = clients.hash_of(BUNDLE)
        command = self.exec_command(self.agent, "both", "cat", BUNDLE, "-")
        child = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        first = child.stdout.read1(1)
        self.assertTrue(first)
        self.assertEqual(clients.hash_of(BUNDLE), before)
        with open("/proc/self/mountinfo") as mounts:
            self.assertNotIn("weir-trust", mounts.read())
        own, _ = child.communicate(b"")
        root = (self.agent.state_dir / "ca/ca.crt").read_bytes()
        self.assertEqual(first + own, BUNDLE.read_bytes() + root)

    def about_itself(self, *prefix):
        return json.loads(check([*prefix, clients.PYTHON, "-c", ABOUT_ITSELF]).stdout)

    def test_the_command_is_who_it_was(self):
        ignoring = ["env", "--ignore-signal=USR1,PIPE", "--block-signal=HUP"]
        self.assertEqual(
            self.about_itself(*ignoring, *self.exec_command(self.agent, "mount")), self.about_itself(*ignoring)
        )

    def test_without_root(self):
        home = self.directory / "nobody"
        home.mkdir()
        weir = readable_copy(home)
        os.chown(home, NOBODY, NOBODY)
        agent = self.start_agent(directory=home, start=[*AS_NOBODY, weir])
        command = [weir, *self.exec_command(agent, "mount")[1:]]
        self.assertEqual(self.about_itself(*AS_NOBODY, *command), self.about_itself(*AS_NOBODY))
        curl = check([*AS_NOBODY, *command, *clients.curl_command(self.url("/nobody-mount"))])

        forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all $@"
        forbidden = [*AS_NOBODY, "unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"]
        ended = run([*forbidden, *command, "echo", "it ran"])
        self.assertEqual((ended.status, ended.stdout), (1, ""))
        self.assertIn("a private mount namespace: Operation not permitted: ", ended.stderr)
        self.assertIn("use --inject env", ended.stderr)

        agent.stop()
        (record,) = agent.exchanges(self.origin.port)
        self.assertEqual(record["process.pid"], curl.pid)
        self.assertEqual(record["http.response.status_code"], 200)


class Load:
    """A program that sends requests all the time, and says how it fared when asked."""

    def __init__(self, command):
        self.process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def so_far(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait_for_more(self, count=20):
        """Waits until it has done that many more, which began after this call."""
        enough = self.so_far()["done"] + count + 1
        wait_until(lambda: self.so_far()["done"] >= enough, 60, "the load stands still")
        return self.so_far()

    def end(self):
        self.process.communicate("", 60)


class RotationTest(EndToEndTest):
    def start_load(self, agent, name):
        load = Load(agent.exec_command(clients.PYTHON, "-u", "-c", LOOP, self.url(f"/{name}")))
        self.addCleanup(lambda: end(load.process))
        load.wait_for_more(5)
        return load

    def rotate(self, agent, *options):
        return check([WEIR, "ca", "rotate", "--state-dir", agent.state_dir, *options]).stdout

    def old_trust(self, agent):
        """Commands, by name, that trust what is to be trusted now, whatever comes."""
        kept = self.directory / "kept"
        shutil.copytree(agent.state_dir / "ca", kept)
        root = kept / "ca.crt"
        java = ["java", f"-Djavax.net.ssl.trustStore={kept}/truststore.p12"]
        java += ["-Djavax.net.ssl.trustStorePassword=changeit", "-cp", clients.compile_java(self.directory)]
        return {
            "curl": ["curl", "-q", "-sS", "--fail", "-o", "/dev/null", "--cacert", root, self.url("/old-curl")],
            "wget": ["wget", "-q", "--no-config", "-O", "/dev/null", "--ca-certificate", root, self.url("/old-wget")],
            "java": [*java, "UrlConnectionRequests", self.url("/old-java"), "1"],
        }

    def test_no_request_fails_while_the_root_is_replaced(self):
        agent = self.start_agent()
        ca = agent.state_dir / "ca"
        (old_root,) = roots_in(ca / "ca.crt")
        before = self.start_load(agent, "before")
        old_trust = self.old_trust(agent)
        self.rotate(agent)
        new_root, kept_root = roots_in(ca / "ca.crt")
        self.assertEqual(kept_root, old_root)
        for file in ("bundle.pem", "truststore.p12"):
            self.assertLessEqual({old_root, new_root}, set(roots_in(ca / file)), file)
        for form in ("pem", "bundle"):
            exported = check([WEIR, "ca", "export", "--state-dir", agent.state_dir, "--format", form]).stdout
            self.assertLessEqual({old_root, new_root}, set(roots_in_text(exported.encode())), form)
        within = self.start_load(agent, "within")
        for load in (before, within):
            self.assertEqual(load.wait_for_more()["failed"], [])
        for name, command in old_trust.items():
            with self.subTest(old=name):
                check(agent.exec_command(*command))
        self.assertTrue(agent.status()["ca"]["overlap"])

        before.end()
        self.rotate(agent, "--finish")
        after = self.start_load(agent, "after")
        for load in (within, after):
            self.assertEqual(load.wait_for_more()["failed"], [])
            load.end()
        for file in ("ca.crt", "bundle.pem", "truststore.p12"):
            self.assertNotIn(old_root, roots_in(ca / file), file)
        self.assertFalse(agent.status()["ca"]["overlap"])
        self.assertNotEqual(run(agent.exec_command(*old_trust["curl"])).status, 0)

        agent.stop()
        # Each request has one record, by the proxy, whichever root it was under.
        answered = [request["path"] for request in self.origin.requests()]
        seen = [self.origin.path_of(record["url.full"]) for record in agent.exchanges(self.origin.port)]
        self.assertCountEqual(seen, answered)

# Mounts what `weir ca install` may touch so that changes go to memory, then stays.
PRIVATE_HOST = """
mount --make-rprivate / && mount -t tmpfs weir-test "$1" && cd "$1"
for directory in /etc /usr/local/share /var/lib; do
  name=$(echo $directory | tr / -)
  mkdir over$name work$name
  mount -t overlay -o lowerdir=$directory,upperdir=over$name,workdir=work$name weir-test $directory || exit
done
echo ready; exec cat
"""
CHECKSUMS = """
find /etc /usr/local/share "$1" -xdev -type f -exec sha256sum {} +
find /etc /usr/local/share "$1" -xdev -printf "%p %l %m %U %G\\n"
"""
ANCHORS = "/usr/local/share/ca-certificates"


class InstallTest(EndToEndTest):
    """On a view of this host that nobody else has."""

    def setUp(self):
        self.place = self.directory / self.id().rpartition(".")[2]
        self.place.mkdir()
        host = ["unshare", "--mount", "sh", "-c", PRIVATE_HOST, "sh", self.place]
        self.host = spawn(host, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.host.stdin.close)
        self.addCleanup(self.host.stdout.close)
        self.addCleanup(lambda: end(self.host))
        self.assertEqual(self.host.stdout.readline(), "ready\n")
        # A JDK that brings a store of its own.
        self.jdk = self.directory / f"{self.place.name}-jdk"
        (self.jdk / "lib/security").mkdir(parents=True)
        shutil.copyfile("/etc/ssl/certs/java/cacerts", self.jdk / "lib/security/cacerts")
        self.state_dir = self.place / "state"
        self.weir_ca("init")
        self.before = self.checksums()

    def on_host(self, *command):
        return ["nsenter", "--mount", "--target", self.host.pid, "env", f"JAVA_HOME={self.jdk}", *command]

    def weir_ca(self, *command):
        return check(self.on_host(WEIR, "ca", *command, "--state-dir", self.state_dir)).stdout

    def checksums(self):
        return sorted(check(self.on_host("sh", "-c", CHECKSUMS, "sh", self.jdk)).stdout.splitlines())

    def read(self, path):
        return pathlib.Path(f"/proc/{self.host.pid}/root{path}").read_bytes()

    def stores_with(self, root):
        """Which of the stores have this root in them (base64)."""
        content = base64.b64decode(root)
        found = {"system"} if root in roots_in_text(self.read(BUNDLE)) else set()
        for name, path in (("java", "/etc/ssl/certs/java/cacerts"), ("jdk", self.jdk / "lib/security/cacerts")):
            found |= {name} if content in self.read(path) else set()
        return found

    def own_root(self):
        (root,) = roots_in_text(self.read(self.state_dir / "ca/ca.crt"))
        return root

    def test_uninstalling_gives_each_file_its_bytes_back(self):
        self.assertEqual(self.weir_ca("install"), "installed: programs that start now trust it\n")
        installed = self.checksums()
        self.assertEqual(self.stores_with(self.own_root()), {"system", "java", "jdk"})
        (anchor,) = (pathlib.Path(f"/proc/{self.host.pid}/root{ANCHORS}")).glob("weir-*.crt")
        # By the directory of hashed links alone.
        by_hash = ["openssl", "verify", "-no-CAfile", "-CApath", "/etc/ssl/certs", f"{ANCHORS}/{anchor.name}"]
        check(self.on_host(*by_hash))
        self.assertEqual(self.weir_ca("install"), "was installed already\n")
        self.assertEqual(self.checksums(), installed)
        self.assertEqual(self.weir_ca("uninstall"), "uninstalled\n")
        self.assertEqual(self.checksums(), self.before)
        self.assertEqual(self.weir_ca("uninstall"), "was not installed\n")

    @unittest.skipUnless(SOAK, "each installation takes seconds")
    def test_one_that_was_cut_short_is_undone(self):
        # Before it wrote down what it did.
        self.weir_ca("install")
        journal = pathlib.Path(f"/proc/{self.host.pid}/root{self.state_dir}/ca/installed/journal.json")
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "after": {}}))
        self.weir_ca("uninstall")
        self.assertEqual(self.checksums(), self.before)

    def test_what_others_change_meanwhile_stays(self):
        former = self.own_root()
        self.weir_ca("install")
        self.weir_ca("rotate")
        self.assertEqual(self.stores_with(former), {"system", "java", "jdk"})
        self.weir_ca("rotate", "--finish")
        self.assertEqual(self.stores_with(former), set())
        self.assertEqual(self.stores_with(self.own_root()), {"system", "java", "jdk"})
        check(self.on_host("cp", self.ca, f"{ANCHORS}/other.crt"))
        check(self.on_host("update-ca-certificates"))
        self.weir_ca("uninstall")
        self.assertEqual(self.stores_with(self.own_root()), set())
        (other,) = roots_in(self.ca)
        self.assertEqual(self.stores_with(other), {"system", "java"})
        self.assertEqual(*([file for file in files if "weir" in file] for files in (self.checksums(), self.before)))

    def test_it_needs_root(self):
        refused = run([*AS_NOBODY, readable_copy(self.directory), "ca", "uninstall", "--state-dir", "/nonexistent"])
        self.assertEqual(refused.status, 1)
        self.assertEqual(refused.stderr, "weir: changing what the host trusts needs root: run it with sudo\n")


if __name__ == "__main__":
    unittest.main()
