"""Read data from its sources: folders, ISIC exports, datasets on the Hub, or synthetic images."""
