"""Shared by the tests of whole runs."""

from run_fixtures import orphans, runs_dir, smallest, tiny  # noqa: F401
