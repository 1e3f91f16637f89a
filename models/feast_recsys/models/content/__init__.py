"""Item vectors from what items are made of, sound or numbers, for those that nobody has had yet."""
