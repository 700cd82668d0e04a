"""What every other package needs: errors, files, the terminal, the hardware and access to the Hub."""
