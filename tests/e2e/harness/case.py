"""The base of all end-to-end tests: a directory, a test CA and an origin for each class."""

import os
import pathlib
import shutil
import tempfile
import unittest

from harness.agent import WEIR, Agent
from harness.certificates import TestAuthority
from harness.clients import PRELOAD, TLS_CLIENT
from harness.origin import Origin

# The tier of the tests for what takes long.
SOAK = os.environ.get("WEIR_E2E_SOAK") == "1"


class EndToEndTest(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise AssertionError("the end-to-end tests need root: the native tap does")
        if not WEIR or not TLS_CLIENT.exists() or not PRELOAD.exists():
            raise AssertionError("WEIR_BIN and WEIR_E2E_CLIENTS must name what CMake built: use ctest")
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="weir-e2e-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        # The worker is an ordinary user and must be able to reach its state directory.
        cls.directory.chmod(0o755)
        cls.authority = TestAuthority(cls.directory)
        cls.ca = cls.authority.certificate
        cls.origin = Origin(cls.directory / "origin", cls.certificates(), cls.origin_address())
        cls.addClassCleanup(cls.origin.stop)

    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good")}

    @classmethod
    def origin_address(cls):
        return "127.0.0.1"

    @classmethod
    def start_class_agent(cls, *options, name="agent"):
        """An agent that ends with the class."""
        agent = Agent(cls.directory, cls.ca, name=name, options=options)
        cls.addClassCleanup(agent.clean_up)
        return agent.start()

    def start_agent(self, *options, name=None, directory=None, **more):
        """An agent that ends with the test."""
        name = name or self.id().rpartition(".")[2]
        agent = Agent(directory or self.directory, self.ca, name=name, options=options, **more)
        self.addCleanup(agent.clean_up)
        return agent.start()

    @classmethod
    def url(cls, path, host="localhost"):
        return f"https://{host}:{cls.origin.port}{path}"

    def assert_no_mismatch(self, mismatches):
        """`mismatches` holds one text for each thing that is wrong; shows some of them."""
        if mismatches:
            shown = "\n".join(mismatches[:10])
            self.fail(f"{len(mismatches)} wrong, the first of them:\n{shown}")
