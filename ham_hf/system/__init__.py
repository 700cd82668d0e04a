"""Shared by all packages: errors, files, the terminal, the hardware and access to the Hub."""
