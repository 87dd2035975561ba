"""A local web page over what a run, a folder of slides or a folder of files holds."""
