"""What happened, told to people and machines outside: structured log lines now, one per run and none per delta."""
