"""Plain classes that hold the heavy engines; `maskdpo_ray.cluster` wraps them as Ray actors."""
