"""What Millrace is measured beside: each peer as its users would write it, with the settings that make it fastest."""
