"""How good a model is, and how sure of that we are."""
