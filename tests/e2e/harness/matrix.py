"""The clients of the matrix: what each runs, and what is expected of its records.

A row's requests go to BASE/0 to BASE/COUNT-1. Where a client can do all of it, even ones are GETs and odd ones POSTs
with i bytes, the first half over one connection and the rest each over its own (clients/matrix/).
"""

import dataclasses
import pathlib

from harness.clients import BUILT, CURL, PYTHON, SOURCES
from harness.go import go_program
from harness.processes import check

PROGRAMS = SOURCES / "matrix"
COUNT = 50
# Where scripts/setup puts what no Debian package has.
OTHERS = pathlib.Path("/usr/local/lib/weir-test-clients/node_modules")
BUN = OTHERS / "@oven/bun-linux-x64/bin/bun"
DENO = OTHERS / "@deno/linux-x64-glibc/deno"
GO_VERSIONS = ("1.19", "1.21", "1.23")
GO_SHAPES = {"symbols": [], "stripped": ["-ldflags=-s -w"], "pie": ["-buildmode=pie"]}


@dataclasses.dataclass
class Row:
    name: str
    library: str  # weir.tls.library
    commands: list  # one after the other, each (arguments, what it finds on standard input)
    server: str = "good"  # of the origin
    version: str = "1.1"
    methods: tuple = ("GET", "POST")  # of even and odd requests
    opaque: str = ""  # the reason, for what can't be read
    environment: dict = dataclasses.field(default_factory=dict)
    may_fail: bool = False  # the client's own status says nothing
    stays: bool = False  # it doesn't end by itself once its input has ended


def _curl(base, ca, *options):
    """One process for the kept half, one each for the rest."""
    def one(i):
        data = ["--data-binary", "b" * i] if i % 2 else []
        return [*options, "--cacert", ca, "-sS", "-o", "/dev/null", "--fail", *data, f"{base}/{i}"]

    kept = [CURL, "-q"]
    for i in range(COUNT // 2):
        kept += (["--next"] if i else []) + one(i)
    return [(kept, "")] + [([CURL, "-q", *one(i)], "") for i in range(COUNT // 2, COUNT)]


def _wget(base, ca):
    common = ["/usr/bin/wget", "-q", "--no-config", "-O", "/dev/null", f"--ca-certificate={ca}"]
    kept = [([*common, *(f"{base}/{i}" for i in range(0, COUNT, 2))], "")]
    return kept + [([*common, f"--post-data={'b' * i}", f"{base}/{i}"], "") for i in range(1, COUNT, 2)]


def typed(base, count=COUNT):
    """What a terminal-like client is to send over one connection."""
    path = "/" + base.split("/", 3)[3]
    text = ""
    for i in range(count):
        body = "b" * i if i % 2 else ""
        length = f"Content-Length: {len(body)}\r\n" if i % 2 else ""
        close = "Connection: close\r\n" if i == count - 1 else ""
        text += f"{'POST' if i % 2 else 'GET'} {path}/{i} HTTP/1.1\r\nHost: localhost\r\n{length}{close}\r\n{body}"
    return text


def nss_database(directory):
    database = directory / "nss"
    if not database.exists():
        database.mkdir()
        check(["certutil", "-N", "-d", database, "--empty-password"])
    return database


def _tls_client(program, base, ca):
    port, path = base.split(":")[2].split("/", 1)
    requests = [f"GET:/{path}/{i}" for i in range(COUNT)]
    return [([BUILT / program, "--ca", ca, "localhost", port, *requests], "")]


def _java_trust(directory, ca):
    store = directory / "matrix-trust.p12"
    if not store.exists():
        check(["keytool", "-importcert", "-noprompt", "-alias", "t", "-file", ca, "-keystore", store,
               "-storepass", "changeit"])
        check(["javac", "-d", directory, PROGRAMS / "RequestsByJava.java"], timeout=120)
    return ["-Djavax.net.ssl.trustStore=" + str(store), "-Djavax.net.ssl.trustStorePassword=changeit"]


def rows(origin, ca, directory, wanted=""):
    """The rows whose names have `wanted` in them."""
    port = origin.ports

    def url(name, server="good"):
        scheme = "http" if server == "plain" else "https"
        return f"{scheme}://localhost:{port[server]}/{name.replace(' ', '-')}"

    def script(interpreter, file, *arguments):
        return [([*interpreter, PROGRAMS / file, *map(str, arguments)], "")]

    made = [
        Row("curl h1", "openssl", _curl(url("curl h1"), ca, "--http1.1")),
        Row("curl h2", "openssl", _curl(url("curl h2", "h2"), ca, "--http2"), server="h2", version="2"),
        Row("curl cleartext", "none", _curl(url("curl cleartext", "plain"), ca), server="plain"),
        Row("wget", "gnutls", _wget(url("wget"), ca)),
        Row("git", "gnutls",
            [(["git", "-c", f"http.sslCAInfo={ca}", "ls-remote", f"{url('git')}/{i}"], "") for i in range(COUNT)],
            methods=("GET", "GET"), may_fail=True),
        Row("apt", "gnutls",
            [(["/usr/lib/apt/apt-helper", "-o", f"Acquire::https::CAInfo={ca}", "-o", "APT::Sandbox::User=root",
               "download-file", f"{url('apt')}/{i}", directory / "apt-file"], "") for i in range(COUNT)],
            methods=("GET", "GET"), may_fail=True),
        Row("openssl s_client", "openssl",
            [(["openssl", "s_client", "-quiet", "-CAfile", ca, "-connect", f"localhost:{port['good']}"],
              typed(url("openssl s_client")))], may_fail=True),
        Row("gnutls-cli", "gnutls",
            [(["gnutls-cli", f"--x509cafile={ca}", "-p", str(port["good"]), "localhost"], typed(url("gnutls-cli")))],
            may_fail=True),
        Row("nss tstclnt", "nss",
            [(["tstclnt", "-h", "localhost", "-p", str(port["good"]), "-4", "-o", "-d", nss_database(directory), "-C"],
              typed(url("nss tstclnt")))], may_fail=True, stays=True),
        Row("BoringSSL", "boringssl", _tls_client("tls_client_boringssl", url("BoringSSL"), ca),
            methods=("GET", "GET")),
        Row("static OpenSSL", "openssl", _tls_client("tls_client_static", url("static OpenSSL"), ca),
            methods=("GET", "GET")),
        Row("static OpenSSL, stripped", "", _tls_client("tls_client_stripped", url("stripped"), ca),
            opaque="static OpenSSL without symbols"),
        Row("python http.client", "openssl",
            script([PYTHON, "-B"], "requests_by.py", "http.client", url("python http.client"), ca, COUNT)),
        Row("python requests", "openssl",
            script([PYTHON, "-B"], "requests_by.py", "requests", url("python requests"), ca, COUNT)),
        Row("python aiohttp", "openssl",
            script([PYTHON, "-B"], "requests_by.py", "aiohttp", url("python aiohttp"), ca, COUNT)),
        Row("node https", "openssl", script(["node"], "requests_by.js", "https", url("node https"), ca, COUNT)),
        Row("node fetch", "openssl", script(["node"], "requests_by.js", "fetch", url("node fetch"), ca, COUNT),
            environment={"NODE_EXTRA_CA_CERTS": str(ca)}),
        Row("node http2", "openssl", script(["node"], "requests_by.js", "http2", url("node http2", "h2"), ca, COUNT),
            server="h2", version="2"),
        Row("ruby", "openssl", script(["ruby"], "requests_by.rb", url("ruby"), ca, COUNT)),
        Row("php curl", "openssl", script(["php"], "requests_by.php", "curl", url("php curl"), ca, COUNT)),
        Row("php streams", "openssl", script(["php"], "requests_by.php", "streams", url("php streams"), ca, COUNT)),
        Row("perl", "openssl", script(["perl"], "requests_by.pl", url("perl"), ca, COUNT)),
        Row("java", "",
            [(["java", *_java_trust(directory, ca), "-cp", directory, "RequestsByJava", url("java"), str(COUNT)], "")],
            opaque="Java's own TLS: use the proxy"),
        Row("bun", "", script([BUN], "requests_by.js", "fetch", url("bun"), ca, COUNT),
            environment={"NODE_EXTRA_CA_CERTS": str(ca)}, opaque="static BoringSSL without symbols"),
        Row("deno", "", script([DENO, "run", "-A", "--unstable-detect-cjs"], "requests_by.js", "fetch", url("deno"), ca, COUNT),
            environment={"DENO_CERT": str(ca), "DENO_DIR": str(directory / "deno"), "DENO_NO_UPDATE_CHECK": "1"},
            opaque="rustls"),
    ]
    for version in GO_VERSIONS:
        for shape in GO_SHAPES:
            if not any(wanted in f"go {version} {shape} {way}" for way in ("h1", "h2")):
                continue
            binary = go_program(directory, version, PROGRAMS / "requests_by.go", shape, GO_SHAPES[shape])
            for way, server, spoken in (("h1", "good", "1.1"), ("h2", "h2", "2")):
                name = f"go {version} {shape} {way}"
                made.append(Row(name, "go", [([binary, way, url(name, server), str(ca), str(COUNT)], "")],
                                server=server, version=spoken))
    return [row for row in made if wanted in row.name]
