"""Kinds of data that studies are made of: what they read, what networks there are, how they are judged."""
