"""Credentials in a job file: how they are recognized and where their values come from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dask_als.errors import InputError

REDACTED = "REDACTED"
"""The text that is shown in place of a credential."""

_WORD = re.compile(
    r"KEYS?|.*(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|APIKEY|ACCESSKEY|SECRETKEY)S?"
)
_PLACE = ("FILE", "PATH", "DIR")
_USER_IN_URL = re.compile(r"://[^/@\s:]*:[^/@\s]+@")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def looks_like_credential(name: str, value: str) -> bool:
    """Tell whether an environment variable should be kept secret.

    That is so if a word of its name is KEY, or ends in SECRET, TOKEN, PASSWORD, CREDENTIAL or the
    like, unless the last word is FILE, PATH or DIR; or if its value is a URL with a password.
    """
    words = re.split(r"[^A-Z0-9]+", name.upper())
    named = words[-1] not in _PLACE and any(map(_WORD.fullmatch, words))
    return named or _USER_IN_URL.search(value) is not None


def resolved(secrets: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of secrets; ``${NAME}`` is replaced by that environment variable.

    Raises
    ------
    InputError
        If there is no such variable.
    """
    values = {}
    for name, value in secrets.items():
        variable = _VARIABLE.fullmatch(value)
        if variable and variable[1] not in environ:
            raise InputError(
                f"the secret {name} refers to the environment variable {variable[1]}, which is not "
                "set here; export it"
            )
        values[name] = environ[variable[1]] if variable else value
    return values
