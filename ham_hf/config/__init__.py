"""Recipes: the argument dataclasses, and which values a run can honor."""
