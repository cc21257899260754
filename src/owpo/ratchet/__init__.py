"""When the reference moves: a plan that can be printed, and the run that follows it."""
