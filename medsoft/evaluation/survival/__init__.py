"""Evaluation of survival: censored times against risks and predicted survival."""
