"""Everything that the Trainer is given, and commands that train several models."""
