"""How masks are evaluated: overlap, distances of surfaces, and pictures of contours."""
