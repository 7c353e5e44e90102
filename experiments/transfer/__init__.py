"""Whether a search helps fine-tuning: networks trained to convergence on many sources, and targets of other sources."""
