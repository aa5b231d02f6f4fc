"""Imports of a training rank on its way to the first step; see `rank_processes`."""

import gc

from actors import strategy, training  # noqa: F401
from maskdpo_ray.config.schema import Config, ModelConfig

strategy.build(Config(model=ModelConfig("model")), world_size=1)
gc.freeze()  # a collection, of which a training does many, would look at a million objects of the imports
