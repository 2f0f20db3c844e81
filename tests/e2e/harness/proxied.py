"""The clients that go through the proxy: what each runs, and by which ways it can.

A row's requests go to BASE/0 to BASE/COUNT-1, by programs that are told neither of a proxy nor of a CA: what they do
about either comes from their environment or from the kernel. `ways`:
  exec         proxy and CA by variables: `weir exec`
  mount        the proxy by variables, the CA by covered trust stores: `weir exec --inject mount`
  transparent  redirected, the CA by variables: `weir exec --transparent`
"""

import dataclasses

from harness.clients import CURL, PYTHON, SOURCES
from harness.go import go_program
from harness.matrix import BUN, DENO, PROGRAMS
from harness.processes import check

COUNT = 6
APACHE = ":".join(f"/usr/share/java/{name}.jar" for name in ("httpclient", "httpcore", "commons-logging", "commons-codec"))
HOST = "origin.test"
ALL = ("exec", "mount", "transparent")
WITHOUT_PROXY = ("transparent",)  # it knows no proxy variable
WITHOUT_MOUNT = ("exec", "transparent")  # its roots are in none of the covered files


@dataclasses.dataclass
class Row:
    name: str
    commands: list
    server: str = "good"
    version: str = "1.1"
    methods: tuple = ("GET", "POST")
    ways: tuple = ALL
    environment: dict = dataclasses.field(default_factory=dict)
    may_fail: bool = False  # the client's own status says nothing


def _curl(base, *options):
    kept = [CURL, "-q"]
    for i in range(COUNT):
        data = ["--data-binary", "b" * i] if i % 2 else []
        kept += (["--next"] if i else []) + [*options, "-sS", "-o", "/dev/null", "--fail", *data, f"{base}/{i}"]
    return [kept]


def _wget(base):
    common = ["/usr/bin/wget", "-q", "-O", "/dev/null"]
    posts = [[*common, f"--post-data={'b' * i}", f"{base}/{i}"] for i in range(1, COUNT, 2)]
    return [[*common, *(f"{base}/{i}" for i in range(0, COUNT, 2))], *posts]


def _java(directory):
    classes = directory / "java-classes"
    if not classes.exists():
        sources = [PROGRAMS / "RequestsByJava.java", PROGRAMS / "RequestsByApache.java"]
        sources.append(SOURCES / "UrlConnectionRequests.java")
        check(["javac", "-cp", APACHE, "-d", classes, *sources], timeout=120)
    return f"{classes}:{APACHE}"


def rows(origin, directory, wanted=""):
    """The rows whose names have `wanted` in them."""

    def url(name, server="good"):
        scheme = "http" if server == "plain" else "https"
        return f"{scheme}://{HOST}:{origin.ports[server]}/{name.replace(' ', '-')}"

    def script(interpreter, file, *arguments):
        return [[*interpreter, PROGRAMS / file, *map(str, arguments)]]

    def java(main, name, *arguments, server="good"):
        return [["java", "-cp", _java(directory), main, url(name, server), str(COUNT), *arguments]]

    python, gets = [PYTHON, "-B"], ("GET", "GET")
    made = [
        Row("curl h1", _curl(url("curl h1"), "--http1.1")),
        Row("curl h2", _curl(url("curl h2", "h2")), server="h2", version="2"),
        Row("curl cleartext", _curl(url("curl cleartext", "plain")), server="plain"),
        Row("wget", _wget(url("wget"))),
        Row("git", [["git", "ls-remote", f"{url('git')}/{i}"] for i in range(COUNT)], methods=gets, may_fail=True),
        Row("apt", [["/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User=root", "download-file", f"{url('apt')}/{i}",
                     directory / "apt-file"] for i in range(COUNT)], methods=gets, may_fail=True,
            ways=("mount",)),  # no variable reaches it
        Row("python http.client", script(python, "requests_by.py", "http.client", url("python http.client"), "-", COUNT),
            ways=WITHOUT_PROXY),
        Row("python requests", script(python, "requests_by.py", "requests", url("python requests"), "-", COUNT)),
        Row("python aiohttp", script(python, "requests_by.py", "aiohttp", url("python aiohttp"), "-", COUNT)),
        Row("node https", script(["node"], "requests_by.js", "https", url("node https"), "-", COUNT), ways=WITHOUT_PROXY),
        Row("node fetch", script(["node"], "requests_by.js", "fetch", url("node fetch"), "-", COUNT), ways=WITHOUT_PROXY),
        Row("node http2", script(["node"], "requests_by.js", "http2", url("node http2", "h2"), "-", COUNT),
            server="h2", version="2", ways=WITHOUT_PROXY),
        Row("ruby", script(["ruby"], "requests_by.rb", url("ruby"), "-", COUNT)),
        Row("php curl", script(["php"], "requests_by.php", "curl", url("php curl"), "-", COUNT)),
        Row("php streams", script(["php"], "requests_by.php", "streams", url("php streams"), "-", COUNT),
            ways=WITHOUT_PROXY),
        Row("perl", script(["perl"], "requests_by.pl", url("perl"), "-", COUNT)),
        Row("java HttpURLConnection", java("UrlConnectionRequests", "java HttpURLConnection"), methods=gets),
        Row("java.net.http h1", java("RequestsByJava", "java.net.http h1"), methods=gets),
        Row("java.net.http h2", java("RequestsByJava", "java.net.http h2", "h2", server="h2"), methods=gets, server="h2",
            version="2"),
        Row("Apache HttpClient", java("RequestsByApache", "Apache HttpClient"), methods=gets),
        Row("bun", script([BUN], "requests_by.js", "fetch", url("bun"), "-", COUNT), ways=WITHOUT_MOUNT),
        Row("deno (rustls)", script([DENO, "run", "-A", "--unstable-detect-cjs"], "requests_by.js", "fetch",
                                    url("deno (rustls)"), "-", COUNT), ways=WITHOUT_MOUNT,
            environment={"DENO_DIR": str(directory / "deno"), "DENO_NO_UPDATE_CHECK": "1"}),
    ]
    for way, server, spoken in (("h1", "good", "1.1"), ("h2", "h2", "2")):
        name = f"go {way}"
        if wanted in name:
            program = go_program(directory, "1.23", PROGRAMS / "requests_by.go")
            made.append(Row(name, [[program, way, url(name, server), "-", str(COUNT)]], server=server, version=spoken))
    return [row for row in made if wanted in row.name]
