"""Weak base models made on the spot, so that a first run needs no download and no accelerator."""
