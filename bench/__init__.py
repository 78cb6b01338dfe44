"""What agentsvc costs, measured against the least that can do its work. See README.md beside this file."""
