"""Tables in, numbers and pictures out; knows no model."""
