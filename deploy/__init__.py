"""Ways to run Millrace."""
