"""A study: a grid of runs from one file, and the tables, figures and page that are made of what they came to."""
