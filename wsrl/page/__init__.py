"""One self-contained HTML page on which the models of an index can be seen, searched and compared by eye.

index -> content (models, columns, neighbors) + positions (t-SNE) -> page.html
"""
