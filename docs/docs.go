// Package docs holds the pages that the service itself shows to its callers.
package docs

import "embed"

// Errors has a page for each type of problem: errors/<slug>.md.
//
//go:embed errors/*.md
var Errors embed.FS
