"""Choose the method of a training for which none is given."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import click
from click.core import ParameterSource

from dask_als.cli.commands.options import settings_of
from dask_als.settings.training import StopSettings, TrainSettings

_GIBBS_ALONE = ("burn_in", "samples", "model_rank", "keep_samples")
_BOTH_METHODS = (
    "seed",
    "dtype",
    "center",
    "first",
    "implicit_attributes",
    "attributes",
    "feedback",
)
# All others, such as rank, mean ALS, which they meant before the method was chosen.
_ALS_ALONE = tuple(
    f.name for f in fields(TrainSettings) if f.name not in (*_GIBBS_ALONE, *_BOTH_METHODS, "method")
)
_ALS_IN_COMMANDS = (*(f.name for f in fields(StopSettings)), "init_from")


@dataclass(frozen=True)
class MethodChoice:
    """The settings of a training, and how its method was chosen.

    Attributes
    ----------
    settings : TrainSettings
    reason : str
        Why this method; empty if the method was given.
    """

    settings: TrainSettings
    reason: str

    def described(self) -> str:
        """Return method, reason and cost in a line."""
        settings, als = self.settings, TrainSettings()
        line = f"method   {settings.method}, as {self.reason}: {settings.epochs} epochs of rank "
        line += f"{settings.rank}"
        if settings.method == "als":
            return line
        return f"{line} (with --method als, {als.epochs} of rank {als.rank})"


def choose_method(options: dict[str, Any]) -> MethodChoice:
    """Remove the options of `TrainSettings`; return the settings, with a method.

    Gibbs sampling needs no setting tuned to the data. An option that is only for ALS, or whose
    value was meant for ALS, asks for ALS.
    """
    if options["method"] is not None:
        return MethodChoice(settings_of(TrainSettings, options), "")
    gibbs, als = _first_given(_GIBBS_ALONE), _first_given(_ALS_ALONE + _ALS_IN_COMMANDS)
    if options["feedback"] == "implicit":
        method, reason = "als", "feedback is implicit"
    elif gibbs is not None:
        method, reason = "gibbs", f"{gibbs} is given"
    elif als is not None:
        method, reason = "als", f"{als} is given"
    else:
        method, reason = "gibbs", "no option asks for als"
    options["method"] = method
    return MethodChoice(settings_of(TrainSettings, options), reason)


def _first_given(names: tuple[str, ...]) -> str | None:
    """Return the first option on the command line among some, as it is written there."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not ParameterSource.DEFAULT:
            return parameter.opts[0]
    return None
