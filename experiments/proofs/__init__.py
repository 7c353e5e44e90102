"""Commands that try to refute what wsrl claims: symmetries on real architectures, readers on damaged files."""
