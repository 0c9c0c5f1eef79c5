"""What screens are made of: each shows what it is given."""
