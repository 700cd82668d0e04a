"""The models that read an image and the patient; every file but this one is copied beside the published weights."""
