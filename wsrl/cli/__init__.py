"""The `wsrl` command."""
