"""A PostgreSQL server for a test, from Debian's package ``postgresql``."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SECONDS = 60


def _programs() -> Path | None:
    """Return the directory with initdb and postgres of the newest version; None without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def temporary_server() -> Iterator[Callable[..., str]]:
    """Start a server that listens on a socket in its own folder; yield what runs SQL on it.

    PostgreSQL refuses root: as root, the server runs as the user nobody.
    """
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "LC_ALL": "C", "TZ": "UTC"}
    data = folder / "data"

    def run(*command, stdin=b""):
        done = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            capture_output=True,
            user=user,
            cwd=folder,
            env=environment,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def sql(statement, stdin=b""):
        options = ("--no-psqlrc", "--quiet", "--tuples-only", "--set=ON_ERROR_STOP=1")
        where = (f"--host={folder}", "--username=tests", "--dbname=postgres")
        return run("psql", *options, *where, "--command", statement, stdin=stdin)

    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "--no-sync", "--username=tests", "--auth=trust", "--encoding=UTF8", data)
        run("pg_ctl", "start", "--wait", "-D", data, "-o", options, "-l", folder / "log")
        try:
            yield sql
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate", "-D", data)
    finally:
        shutil.rmtree(folder)
