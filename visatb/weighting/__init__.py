"""Task weights from validation scores (Eq. 3-12 of arXiv 2403.04343), and how sure they are. Needs numpy alone."""
