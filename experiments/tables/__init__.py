"""Commands that make tables of finished runs of the main job, each with CSV, a plot and a page of all tables."""
