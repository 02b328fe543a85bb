"""What a run tells of itself; knows of training only its numbers and pictures."""
