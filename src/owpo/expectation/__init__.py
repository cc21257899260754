"""What a rule's update is on average over the verifier's verdicts, where OWPO keeps its direction for every sample."""
