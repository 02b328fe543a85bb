"""What is in a data set: checked, exported, shown."""
