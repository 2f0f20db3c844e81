"""The clients that move bodies of awkward sizes, each through one library and one way of calling it: all take the same
requests (clients/transfers/transfer.py tells)."""

import dataclasses

from harness import clients
from harness.clients import BUILT, CURL, PYTHON, SOURCES
from harness.go import go_program
from harness.processes import check

ROOM = 65 << 20  # for the largest answer
FOLDER = SOURCES / "transfers"


@dataclasses.dataclass
class Way:
    name: str
    library: str  # weir.tls.library
    start: object  # (origin, ca, directory) -> command up to the requests
    server: str = "good"  # of the origin
    version: str = "1.1"
    # The body that is sent is in no buffer of the program's: all of it is a gap.
    unread: bool = False

    def run(self, origin, ca, directory, requests):
        """Gives what the client says of each request."""
        _, answers = clients.run_json([*self.start(self, origin, ca, directory), *requests], timeout=300)
        return answers


def _tls_client(program, *options):
    def start(way, origin, ca, directory):
        return [BUILT / program, "--ca", ca, "--room", str(ROOM), *options, "127.0.0.1", str(origin.ports[way.server])]

    return start


def _script(*command):
    def start(way, origin, ca, directory):
        return [*command, ca, "localhost", str(origin.ports[way.server])]

    return start


def _python(way):
    return _script(PYTHON, "-B", FOLDER / "transfer.py", way)


def _python_ways(name, library, module, variants, **more):
    return [Way(f"{name}-{variant}", library, _python(f"{module}:{variant}"), **more) for variant in variants]


def _node(way):
    return _script("node", FOLDER / "transfer.js", way)


def _go(version, way):
    def start(row, origin, ca, directory):
        program = go_program(directory, version, FOLDER / "transfer.go")
        return [program, way, ca, "localhost", str(origin.ports[row.server])]

    return start


class _Curl(Way):
    """One process: the requests go over one connection."""

    def run(self, origin, ca, directory, requests):
        port = origin.ports[self.server]
        base = f"{'http' if self.server == 'plain' else 'https'}://localhost:{port}"
        command, files = [CURL, "-q"], []
        for request in requests:
            method, _, target = request.partition(":")
            path, _, file = target.partition("=")
            files.append(directory / f"curl-{len(files)}")
            command += ["--next"] if len(files) > 1 else []
            command += ["-sS", "--cacert", ca, "--http2" if self.version == "2" else "--http1.1", "-o", files[-1]]
            command += [*(["--upload-file", file] if method == "PUT" else []), base + path]
        check(command, timeout=300)
        answers = [{"size": file.stat().st_size, "sha256": clients.hash_of(file)} for file in files]
        for file in files:
            file.unlink()
        return answers


WAYS = [
    Way("openssl-3", "openssl", _tls_client("tls_client")),
    Way("openssl-3-ex", "openssl", _tls_client("tls_client", "--ex")),
    Way("openssl-3-nonblocking", "openssl", _tls_client("tls_client", "--nonblocking", "--partial", "--ex")),
    Way("openssl-3-static", "openssl", _tls_client("tls_client_static")),
    Way("openssl-python", "openssl", _python("blocking")),
    Way("openssl-asyncio", "openssl", _python("asyncio")),
    Way("openssl-node", "openssl", _node("h1")),
    Way("openssl-node-h2", "openssl", _node("h2"), server="h2", version="2"),
    _Curl("openssl-curl-h2", "openssl", None, server="h2", version="2"),
    *_python_ways("openssl", "openssl", "over_openssl", ("ex", "peek", "peek_ex", "early")),
    Way("boringssl", "boringssl", _tls_client("tls_client_boringssl")),
    Way("gnutls-send", "gnutls", _python("over_gnutls:send")),
    *_python_ways("gnutls", "gnutls", "over_gnutls", ("send2", "range", "cork", "sendfile", "seq", "packet")),
    *_python_ways("nss", "nss", "over_nss", ("read", "recv", "peek", "writev", "sendfile", "transmitfile")),
    Way("go-1.23", "go", _go("1.23", "h1")),
    Way("go-1.23-h2", "go", _go("1.23", "h2"), server="h2", version="2"),
    Way("go-1.19", "go", _go("1.19", "h1")),
    *_python_ways("cleartext", "none", "cleartext", ("send", "vectors", "peek"), server="plain"),
    Way("cleartext-sendfile", "none", _python("cleartext:sendfile"), server="plain", unread=True),
    _Curl("cleartext-curl", "none", None, server="plain"),
]
if (BUILT / "tls_client_openssl11").exists():
    WAYS.append(Way("openssl-1.1", "openssl", _tls_client("tls_client_openssl11")))
