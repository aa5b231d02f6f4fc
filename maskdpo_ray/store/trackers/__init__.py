"""Trackers of others that metrics also go to, one file each, loaded when named."""
