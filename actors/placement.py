"""Bundles of GPUs that colocated actors share: which GPU each actor gets, and how Ray and vLLM are told.

A placement group has a bundle for each GPU, and each actor on it a share of that GPU, as in OpenRLHF 0.11.2
(cli/train_ppo_ray.py, trainer/ray/vllm_engine.py). Shares are Ray's bookkeeping only: the loop says who takes memory
when. A vLLM engine on several GPUs has none itself: vLLM starts a worker by Ray in each of its bundles.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from typing import Any

from actors.vllm_process import COLOCATED
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.errors import ClusterError


class Placement:
    """The GPUs of a colocated run's actors."""

    def __init__(self, plan: Plan, *names: str) -> None:
        """Reserve the GPUs of the named groups, or of all. Raises ClusterError when they are not free in time."""
        from ray.util.placement_group import placement_group, placement_group_table

        self._places = plan.places(*names)
        bundles = [{"GPU": 1.0} for _ in range(plan.gpus(*names))]
        for group in plan.named(names):
            for gpus in self._places.get(group.name, ()) if group.cpus else ():
                bundle = bundles[gpus[0]]
                bundle["CPU"] = bundle.get("CPU", 0) + group.cpus
        self._group = placement_group(bundles, strategy="PACK")
        timeout_s = plan.config.cluster.start_timeout_s
        if not self._group.wait(timeout_s):
            self.remove()
            raise ClusterError(
                f"colocated actors: no room for {len(bundles)} GPUs ({bundles}) within {timeout_s:.0f} s"
            )
        # By node, so that neighbours are on one: Ray puts bundles where it likes.
        nodes = placement_group_table(self._group)["bundles_to_node_id"]
        self._bundles = sorted(nodes, key=lambda bundle: (nodes[bundle], bundle))
        crowd = Counter(chain.from_iterable(gpus for found in self._places.values() for gpus in found))
        self._share = math.floor(10_000 / max(crowd.values(), default=1)) / 10_000  # Ray counts ten-thousandths

    def options(self, group: str, number: int, cpus: float) -> dict[str, Any]:
        """Ray's options for an actor of a group; for one without a GPU its CPUs only."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if group not in self._places:
            return {"num_cpus": cpus, "num_gpus": 0}
        bundles = [self._bundles[gpu] for gpu in self._places[group][number]]
        variables = {COLOCATED: "1"}
        if len(bundles) > 1:
            variables["VLLM_RAY_BUNDLE_INDICES"] = ",".join(map(str, bundles))
            variables["VLLM_RAY_PER_WORKER_GPUS"] = str(self._share)
        strategy = PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=bundles[0], placement_group_capture_child_tasks=True
        )
        return {
            "num_cpus": cpus,
            "num_gpus": self._share if len(bundles) == 1 else 0,
            "scheduling_strategy": strategy,
            "runtime_env": {"env_vars": variables},
        }

    def remove(self) -> None:
        """Give the GPUs back."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)
