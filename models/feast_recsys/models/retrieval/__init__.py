"""What all retrieval models share: encoders that meet in a dot product, scores of the catalogue, users' histories."""
