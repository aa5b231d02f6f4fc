"""What a training rank imports on its way to the first step; see `rank_processes`."""

import gc

from actors import strategy, training  # noqa: F401

strategy.build(strategy.StrategySettings(device="cpu", zero_stage=2, param_dtype="fp32", seed=0), world_size=1)
gc.freeze()  # a collection, of which a training does many, would look at a million objects of the imports
