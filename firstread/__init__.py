"""The command line and the parent process."""
