"""The stages of a study: networks are made, kept, found again and evaluated."""
