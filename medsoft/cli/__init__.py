"""The command line; its folders mirror the verbs."""
