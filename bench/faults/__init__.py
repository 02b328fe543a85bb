"""Attacks on this project: what may happen to a program, a disk or a file, again and again, on purpose."""
