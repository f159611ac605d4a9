"""The virtual environment of the peers: each package is installed separately, with pins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from machine import say

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv-peers"
PINS = HERE / "requirements-peers.txt"
SHARED = ["numpy", "pyarrow", "scipy", "threadpoolctl"]


def python_of_peers() -> Path:
    """Return the interpreter of the peers' own environment."""
    return VENV / "bin" / "python"


def install(packages: list[str]) -> dict[str, str]:
    """Install each package separately; return the reasons of failures."""
    if packages and not python_of_peers().exists():
        say(f"making {VENV.name}; LensKit brings PyTorch, some 3 GB to download")
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    reasons = {}
    for package in dict.fromkeys(packages):
        pip = [str(python_of_peers()), "-m", "pip", "install", "--quiet", "--constraint", str(PINS)]
        result = subprocess.run([*pip, *SHARED, package], text=True, capture_output=True)
        if result.returncode:
            reasons[package] = f"not installed: {reason(result.stderr)}"
            say(f"{package} {reasons[package]}")
    return reasons


def reason(stderr: str) -> str:
    """Return the last line that names an error, else the last non-empty line."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"ERROR: |[\w.]+(Error|Exception|Invalid)\b", line)]
    return ([*lines[-1:], *named[-1:]] or ["no message"])[-1][:300]
