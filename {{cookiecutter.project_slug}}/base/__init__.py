"""The abstract classes of data sets, models and trainers, and the loader of batches."""
