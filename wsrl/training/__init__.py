"""Training of encoders: closed-form starts, contrastive steps, and what they are fitted to."""
