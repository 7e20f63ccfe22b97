"""Smaller networks of a trained one: what is asked for, and what is made, measured and written."""
