"""What every endpoint shares: problems, identity, request ids, parsing, headers, health."""
