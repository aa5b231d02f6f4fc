"""Fact tables: what the `facts` annotator checks answers against, and the questions about them."""
