"""Find images of one lesion under different lesion ids, and images that two collections share."""
