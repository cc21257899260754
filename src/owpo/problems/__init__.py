"""What is asked, and is it right."""
