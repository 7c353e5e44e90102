"""wsrl: search a model zoo by its weights."""
