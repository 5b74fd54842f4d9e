"""How the book is made: the environment, the executed notebooks, the site, the wheel."""
