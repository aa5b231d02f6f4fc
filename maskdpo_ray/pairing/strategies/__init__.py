"""Strategies make pairs of a question's scored answers. One file each, found by its name; see `protocol`."""
