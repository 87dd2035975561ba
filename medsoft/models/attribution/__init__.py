"""What places of an image add to a logit, in networks with a class token and in those that average a map."""
