"""The place of the folder recipes/ in the wheel: pyproject.toml puts it here."""
