"""A plain directory as the place of a dataset: for machines without a store. What is in it is for people to use."""
