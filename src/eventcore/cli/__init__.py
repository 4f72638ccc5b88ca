"""The command line: `app` knows the commands, one module each. It uses only what every user of the package can."""
