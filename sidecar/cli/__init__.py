"""The command line. `main` holds the group; each command is a module that is imported when it is called."""
