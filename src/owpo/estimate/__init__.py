"""What a run will take, before it starts: bytes by item, and seconds a step."""
