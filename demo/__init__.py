"""The demo: a small data set drawn from nothing, and what training makes of it."""
