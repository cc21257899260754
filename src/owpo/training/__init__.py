"""One stage: sample, verify, advantage, reference, update. Read `stage.py` top to bottom."""
