"""What people look at: the state of a federation, in a terminal and as a page."""
