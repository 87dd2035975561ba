"""Models of survival: their objectives, the step of a joint loss, and the linear one that is solved."""
