// Package docs embeds the pages that the service and the lab serve.
package docs

import "embed"

// Errors has a page for each problem: errors/<slug>.md.
//
//go:embed errors/*.md
var Errors embed.FS

// Lessons has a page for each lesson: lessons/<name>.md.
//
//go:embed lessons/*.md
var Lessons embed.FS
