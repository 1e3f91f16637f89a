"""What training learns from: interactions, the moments at which users ask, their histories, and features as of then."""
