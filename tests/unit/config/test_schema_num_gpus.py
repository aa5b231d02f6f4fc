"""The GPUs that an annotator or evaluator says it needs, against those that the config reserves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_preflight import base_config

from maskdpo_ray.config.schema import AnnotationConfig, ClusterConfig, EvalConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.records import Question
from maskdpo_ray.stages import preflight


class NeedsGpus:
    """An annotator and an evaluator of the user's own."""

    def __init__(self, num_gpus: Any) -> None:
        self.num_gpus = num_gpus

    def check(self, question: Question) -> None: ...

    start = annotate = judge = check


OPTIONS_THAT_TELL = {
    "anah": {"judge": "vllm", "judge_options": {"model": "org/judge", "tensor_parallel_size": 2}},
    "spans": {"model": "org/checker", "device": "cuda"},
    f"python:{__name__}:TellsGpus": {"gpus": 2},
}


class TellsGpus(NeedsGpus):
    """The same, which plan can ask without building it."""

    @staticmethod
    def gpus_of(options: dict[str, int]) -> int:
        return options["gpus"]


@pytest.mark.parametrize(("name", "options"), OPTIONS_THAT_TELL.items(), ids=OPTIONS_THAT_TELL)
def test_options_tell_it_without_files(name: str, options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Options alone, as `plan` has them: the models are nowhere."""
    config = base_config(tiny_model, tmp_path)
    config = replace(config, annotation=AnnotationConfig(annotator=name, options=options))
    with pytest.raises(ConfigError, match="cluster.gpus_per_annotator: expected more than [01], as its model runs on"):
        preflight.check_gpus(config)
    preflight.check_gpus(replace(config, cluster=ClusterConfig(gpus_per_annotator=2)))
    on_cpu = {**options, "device": "cpu", "gpus": 0, "judge_options": {"device": "cpu"}}
    preflight.check_gpus(replace(config, annotation=AnnotationConfig(annotator=name, options=on_cpu)))


@pytest.mark.parametrize("kind", ["annotator", "evaluator"])
@pytest.mark.parametrize(
    ("needed", "reserved", "expected"),
    [
        (0, 0, None),
        (1, 0.5, None),
        (4, 4, None),
        (1, 0, "cluster.gpus_per_{}: expected more than 0, as its model runs on 1 (device: cuda), got 0"),
        (4, 1, "cluster.gpus_per_{}: expected more than 3, as its model runs on 4 (device: cuda), got 1"),
        (None, 1, "{}: num_gpus: expected a whole number, 0 or more, got None"),
    ],
)
def test_what_runs_on_gpus_must_have_them(
    tiny_model: Path, tmp_path: Path, kind: str, needed: Any, reserved: float, expected: str | None
) -> None:
    config = base_config(tiny_model, tmp_path)
    name, options = f"python:{__name__}:NeedsGpus", {"num_gpus": needed}
    cluster = ClusterConfig(**{f"gpus_per_{kind}": reserved})  # type: ignore[arg-type]
    if kind == "annotator":
        config = replace(config, annotation=AnnotationConfig(annotator=name, options=options), cluster=cluster)
    else:
        config = replace(config, eval=EvalConfig(evaluator=name, options=options), cluster=cluster)
    if expected is None:
        preflight.check(config)
        return
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    assert str(caught.value).endswith(expected.format(kind))
