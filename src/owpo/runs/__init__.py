"""A run is a folder: configuration, logs, versions of weights, checkpoints. Everything else is read from it."""
