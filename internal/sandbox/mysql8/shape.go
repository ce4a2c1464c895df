package mysql8

import "strings"

// shapeOf is a statement with ? for each literal and each quoted name, one blank
// for each run of them, and no comments but those that a server executes.
// Statements of one shape are alike to a grammar, but for their lengths.
func shapeOf(statement string) string {
	var b strings.Builder
	b.Grow(min(len(statement), 1024))
	s := statement
	for s != "" {
		switch c := s[0]; {
		case c == '\'' || c == '"' || c == '`':
			s = s[quoted(s):]
			b.WriteByte('?')
		case strings.HasPrefix(s, "/*") && !strings.HasPrefix(s, "/*!") && !strings.HasPrefix(s, "/*M!"):
			s = after(s, "*/")
			b.WriteByte(' ')
		case strings.HasPrefix(s, "-- ") || c == '#':
			s = after(s, "\n")
			b.WriteByte(' ')
		case isSpace(c):
			for s != "" && isSpace(s[0]) {
				s = s[1:]
			}
			b.WriteByte(' ')
		case isWord(c):
			n := 0
			for n < len(s) && isWord(s[n]) {
				n++
			}
			if c >= '0' && c <= '9' {
				b.WriteByte('?')
			} else {
				b.WriteString(s[:n])
			}
			s = s[n:]
		default:
			b.WriteByte(c)
			s = s[1:]
		}
	}
	return strings.TrimSpace(repeated(b.String()))
}

// quoted is the length of the quoted text that s begins with.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] != '`':
			i++
		case s[i] != s[0]:
		case i+1 < len(s) && s[i+1] == s[0]:
			i++ // doubled
		default:
			return i + 1
		}
	}
	return len(s)
}

// repeated shortens lists, of which a statement may have one of any length.
func repeated(s string) string {
	for _, list := range []struct{ from, to string }{
		{"  ", " "}, {"_binary?", "?"}, {"?, ?", "?"}, {"?,?", "?"}, {"(?), (?)", "(?)"}, {"(?),(?)", "(?)"},
		{"UNION ALL SELECT ? UNION ALL SELECT ?", "UNION ALL SELECT ?"},
	} {
		for strings.Contains(s, list.from) {
			s = strings.ReplaceAll(s, list.from, list.to)
		}
	}
	return s
}

func after(s, end string) string {
	_, rest, _ := strings.Cut(s, end)
	return rest
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isWord(c byte) bool {
	return c == '_' || c == '$' || c == '@' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
