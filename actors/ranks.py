"""A group of training ranks that is restarted when one of them dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actors import calls
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ActorLost, ClusterError, UserError
from maskdpo_ray.terminal import note

_WHAT = "training rank"
# More deaths than this in one iteration are no accident.
_RESTARTS = 3
# Survivors may tell of a broken connection before Ray tells who died: to miss a node takes it half a minute.
_NEWS_TIMEOUT_S = 60.0


class Ranks:
    """Handles of ranks that `join` makes one group."""

    def __init__(self, config: Config, handles: Sequence[Any], restart: Callable[[], Sequence[Any]]) -> None:
        """`restart` kills the ranks, and returns new ones."""
        self._config = config
        self._handles = handles
        self._restart = restart
        self.deaths = 0
        """In this iteration."""

    def __len__(self) -> int:
        return len(self._handles)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call every rank with the same arguments; results in the order of the ranks.

        Raises ActorLost when a rank has died: `start_again` comes next. ClusterError, or the rank's own UserError, when
        something else went wrong.
        """
        pending = [getattr(rank, method).remote(*arguments) for rank in self._handles]
        return self._gather(pending, self._config.cluster.step_timeout_s, method)

    def join(self) -> None:
        """Let the ranks meet, right after their start; when one dies meanwhile, all are started again.

        Raises ClusterError as `start_again` does, or naming the rank that did not answer in time.
        """
        try:
            self._join()
        except ActorLost as died:
            self.start_again(died, "from the beginning")
            self.deaths = 0

    def _join(self) -> None:
        timeout_s = self._config.cluster.start_timeout_s
        host, port = self._gather([self._handles[0].address.remote()], timeout_s, "start")[0]
        told = self._gather([rank.setup.remote(host, port) for rank in self._handles], timeout_s, "join the group")
        for line in sorted({line for line in told if line}):
            note(line)

    def _gather(self, pending: Sequence[Any], timeout_s: float, step: str) -> list[Any]:
        try:
            return calls.gather(pending, timeout_s, _WHAT, step)
        except calls.OutOfMemory as error:
            raise ClusterError(f"{error}; {_savers(self._config)}") from error
        except ActorLost:
            raise
        except UserError as error:
            if died := calls.death(pending, _NEWS_TIMEOUT_S, _WHAT):
                raise died from error
            raise

    def start_again(self, died: ActorLost, whence: str) -> None:
        """Put new ranks in the place of all: the others wait for the dead one, in vain, so nobody waits for them.

        Raises ClusterError when they die too often, or can't be started.
        """
        while True:
            self.deaths += 1
            if self.deaths > _RESTARTS:
                savers = _savers(self._config)
                raise ClusterError(f"{died}; death {self.deaths} in this iteration; if memory is short: {savers}")
            note(f"{died}; the group starts again {whence}")
            try:
                self._handles = self._restart()
                self._join()
                return
            except ActorLost as another:
                died = another


def _savers(config: Config) -> str:
    """Options to change so that training takes less memory."""
    train, ds = config.train, config.ds
    now = [f"lower train.micro_batch_size ({train.micro_batch_size})"] if train.micro_batch_size > 1 else []
    if not config.model.gradient_checkpointing_enable:
        now.append("set model.gradient_checkpointing_enable")
    later = [f"lower rollout.max_new_tokens ({config.rollout.max_new_tokens})"]
    if ds.zero_stage < 3:
        later.append("set ds.zero_stage 3")
    if config.cluster.device == "cuda" and not ds.adam_offload:
        later.append("set ds.adam_offload")
    later.append(f"raise train.num_ranks ({train.num_ranks})")
    return "; ".join([*([f"{' or '.join(now)} and resume"] if now else []), f"in a new run {' or '.join(later)}"])
