"""From features to what modules take: vocabularies and statistics, tensors of all rows, and layers that read them."""
