"""Views of what is going on; none of them changes anything."""
