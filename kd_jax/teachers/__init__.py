"""What a teacher is to its students: predicting with it, and a checked cache of its predictions."""
