"""The verbs ``medsoft slides ...``."""
