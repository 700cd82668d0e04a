"""The command `ham-hf`, one module for each command."""
