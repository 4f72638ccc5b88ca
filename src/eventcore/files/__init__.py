"""One module per kind of file on disk: what its bytes mean, how it is read, written and checked."""
