"""Runs that are interrupted in every way we could think of, by the real command line. See docs/reliability.md."""
