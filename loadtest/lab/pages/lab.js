// The page lab.html.
