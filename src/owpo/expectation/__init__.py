"""What a rule's update is on average over what the verifier says, where OWPO promises its direction for every sample."""
