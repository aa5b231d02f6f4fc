"""Commands beside `maskdpo_ray.run`, each usable without the loop."""
