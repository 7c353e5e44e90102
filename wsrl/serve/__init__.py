"""A server on this machine's loopback address: the page of `wsrl.page`, search by upload, and a JSON API."""
