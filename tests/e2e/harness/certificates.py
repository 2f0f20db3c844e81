"""A certificate authority for tests, and the origin's certificates, good and bad, made by `openssl`."""

import dataclasses
import pathlib

from harness.processes import check

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
GOOD_NAMES = "DNS:localhost,DNS:origin.test,IP:127.0.0.1"


@dataclasses.dataclass
class Certificate:
    certificate: pathlib.Path
    key: pathlib.Path


class TestAuthority:
    """The root is `certificate`; leaves are made in the same directory."""

    def __init__(self, directory):
        self._directory = directory
        self.certificate = directory / "test-ca.crt"
        self._key = directory / "test-ca.key"
        check(
            ["openssl", "req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, "-days", "30"]
            + ["-subj", "/CN=weir test root", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        )

    def _files(self, name):
        return Certificate(self._directory / f"{name}.crt", self._directory / f"{name}.key")

    def leaf(self, name, alternative_names=GOOD_NAMES, days=30):
        """A leaf of this root; with negative days it has expired."""
        files = self._files(name)
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative_names}\nextendedKeyUsage=serverAuth\n")
        check(["openssl", "req", *_KEY, "-keyout", files.key, "-out", request, "-subj", f"/CN={name}"])
        check(
            ["openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key]
            + ["-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", files.certificate]
        )
        return files

    def self_signed(self, name):
        files = self._files(name)
        check(
            ["openssl", "req", "-x509", *_KEY, "-keyout", files.key, "-out", files.certificate, "-days", "30"]
            + ["-subj", f"/CN={name}", "-addext", f"subjectAltName={GOOD_NAMES}"]
        )
        return files
