// The page lessons.html.
