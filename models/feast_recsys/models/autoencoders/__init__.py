"""Autoencoders of users' histories: for ratings (deep), and for top-N recommendation (multinomial)."""
