"""A stage of a run, trained by a host's trainer in processes of its own; everything else of the run stays ours."""
