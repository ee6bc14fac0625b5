"""The tests of Millrace."""
