"""What the networks of several tasks have in common, how well they repeat, and whether they tell tasks apart."""
