"""The command line's parser and the configurations."""
