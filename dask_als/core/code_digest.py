"""A digest of the package's own sources."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest_of_modules(folder: Path) -> str:
    """Return the SHA-256 of all modules in a folder and its subfolders.

    It changes if a module is added, removed, renamed, moved or edited.
    """
    digest = hashlib.sha256()
    for module in sorted(folder.rglob("*.py")):
        content = module.read_bytes()
        digest.update(f"{module.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
