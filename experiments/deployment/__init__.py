"""Finished networks as other programs see them."""
