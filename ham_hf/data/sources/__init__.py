"""Where the data comes from: folders, ISIC exports, datasets on the Hub, or synthetic images."""
