"""Checks that the program runs on itself and on its users' methods, data and records."""
