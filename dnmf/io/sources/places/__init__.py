"""Places where image files lie: folders, lists, archives, tables and URLs."""
