"""Self-evolving language models with One-Way Policy Optimization."""
