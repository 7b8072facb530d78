"""Commands: arguments, what is printed, exit codes. Start with `commands`."""
