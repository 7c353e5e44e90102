"""The stages of the main job, and what they share with the tables that are made of finished runs."""
