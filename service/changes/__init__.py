"""Changes: a stream that tells clients when to read lists and figures again."""
