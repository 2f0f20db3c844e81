"""Go programs, built by several toolchains."""

import shutil
import subprocess

from harness.clients import SOURCES
from harness.processes import clean_environment

# Go compiles its own library once for each toolchain and form; the programs of the unit tests need it, too.
_CACHE = SOURCES.parents[2] / "build" / "go-cache"


def go_program(directory, version, source, shape="symbols", options=()):
    """Builds the source file into the directory, once, and gives the program."""
    program = directory / f"{source.stem}-{version}-{shape}"
    if program.exists():
        return program
    # Not built where it lies: Go would look for a module around it.
    copy = directory / source.name
    shutil.copy(source, copy)
    environment = clean_environment() | {
        "HOME": str(directory), "GOCACHE": str(_CACHE), "GOTOOLCHAIN": "local", "GO111MODULE": "off",
    }
    command = [f"/usr/lib/go-{version}/bin/go", "build", *options, "-o", program, copy]
    built = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise AssertionError(f"{command}: {built.stderr}")
    return program
