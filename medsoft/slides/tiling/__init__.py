"""Where the tiles of a slide lie."""
