"""python -m maskdpo_ray.export"""

from maskdpo_ray.commands import arguments, export

if __name__ == "__main__":
    arguments.start(export.main)
