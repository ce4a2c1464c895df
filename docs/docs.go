// Package docs embeds the pages that the service serves.
package docs

import "embed"

// Errors has a page for each problem: errors/<slug>.md.
//
//go:embed errors/*.md
var Errors embed.FS
