// The page scheduler.html.
