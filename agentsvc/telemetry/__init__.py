"""What happened, told to people and machines outside: one log line and one set of observations per run, none per delta."""
