"""What a run tells: on the console, in files, in pictures, as metrics."""
