"""Which models of a zoo suit a data set that none of them was trained on."""
