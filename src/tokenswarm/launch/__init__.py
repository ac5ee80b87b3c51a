"""Starting servers under test, as processes or as containers, and surely ending them again."""
