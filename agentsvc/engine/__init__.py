"""What happens between question and answer. Knows no socket, no database and no wire format."""
