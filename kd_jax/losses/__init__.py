"""Pure losses: arrays in, unreduced float32 arrays out."""
