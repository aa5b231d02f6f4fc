"""Analyses as Markdown, JSON and pictures."""
