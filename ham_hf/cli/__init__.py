"""The command `ham-hf`: one file for each command, listed in `ham_hf.cli.main`."""
