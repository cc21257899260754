"""A run made visible: one self-contained page, and the same figures as files."""
