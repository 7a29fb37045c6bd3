"""The abstract bases that data sets, models and trainers are built on."""
