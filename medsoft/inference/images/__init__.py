"""Images and volumes to feature files."""
