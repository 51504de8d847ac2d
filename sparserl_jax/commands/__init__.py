"""What each command does, as a function of its arguments and the console; returns the exit code."""
