"""``python -m papilio.doctor``: what this machine offers papilio, and what is wrong with it."""
