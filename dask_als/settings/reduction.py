"""When the samples of a training are reduced, and to which rank."""

from __future__ import annotations

from dataclasses import dataclass

from dask_als.settings.training import TrainSettings

# Between reductions, factors of twice the model's rank are kept, or of so many.
_LEAST_WORKING_RANK = 128


@dataclass(frozen=True)
class Schedule:
    """After which epochs samples are cut down, and to which rank.

    Attributes
    ----------
    settings : TrainSettings
    """

    settings: TrainSettings

    @property
    def working_rank(self) -> int:
        """The rank between reductions."""
        return max(_LEAST_WORKING_RANK, 2 * (self.settings.reduced_rank or 0))

    @property
    def batch(self) -> int:
        """How many samples are cut down at once."""
        return max(1, self.working_rank // self.settings.rank)

    def reductions(self, epoch: int) -> range:
        """Return the epochs, up to the given one, after which samples are cut down."""
        if self.settings.reduced_rank is None:
            return range(0)
        return range(self.settings.burn_in + self.batch, epoch + 1, self.batch)

    def last(self, epoch: int) -> int | None:
        """Return the last epoch up to the given one after which samples are cut down, if any."""
        return max(self.reductions(epoch), default=None)

    def waiting(self, epoch: int) -> range:
        """Return the epochs whose samples wait after an epoch for the next reduction."""
        return range((self.last(epoch) or self.settings.burn_in) + 1, epoch + 1)
