"""Plain classes that hold the heavy engines, wrapped as Ray actors by `maskdpo_ray.cluster`, and groups of these."""
