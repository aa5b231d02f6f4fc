"""What the tests of whole runs share."""

from run_fixtures import orphans, runs_dir, smallest, tiny  # noqa: F401
